"""What the demonstration may be told, validated once."""

from dataclasses import dataclass

from unfreeze.contract.options import check_ranges


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """How large the demonstration is.

    Args:
        train_per_class: training images of each of the 17 groups.
        val_per_class: validation images of each.
        epochs: passes over the images for the blocks behind the cut.
        seconds: how long the server is asked.
        seed: of everything random.

    Raises:
        OptionsError: a value is out of its range.
    """

    train_per_class: int = 110
    val_per_class: int = 20
    epochs: int = 5
    seconds: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Validate once, where it is built."""
        ranges = {
            "train_per_class": (2, 100_000),
            "val_per_class": (1, 100_000),
            "epochs": (1, 10_000),
            "seconds": (0.1, 3600.0),
            "seed": (0, 2**32 - 1),
        }
        check_ranges(vars(self), ranges)
