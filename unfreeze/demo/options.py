"""Options of the demo, validated at construction."""

from dataclasses import dataclass

from unfreeze.contract.options import check_ranges


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Size of the demo.

    Args:
        train_per_class: Training images per class; by default all of the digits, 200 of each wallpaper group.
        val_per_class: Validation images per class; by default all of the digits, 20 of each wallpaper group.
        epochs: Training epochs; by default 5 for the digits, 10 for the wallpaper groups.
        seconds: Duration of the throughput measurement, in seconds.
        seed: Random seed.

    Raises:
        OptionsError: A value is out of range.
    """

    train_per_class: int | None = None
    val_per_class: int | None = None
    epochs: int | None = None
    seconds: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Validate the ranges."""
        ranges = {
            "train_per_class": (2, 100_000),
            "val_per_class": (1, 100_000),
            "epochs": (1, 10_000),
            "seconds": (0.1, 3600.0),
            "seed": (0, 2**32 - 1),
        }
        check_ranges(vars(self), ranges)
