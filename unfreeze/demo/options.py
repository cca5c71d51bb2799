"""Options of the demo, validated at construction."""

from dataclasses import dataclass

from unfreeze.contract.options import check_ranges


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Size of the demo.

    Args:
        train_per_class: training images per class; by default all for "digits", 200 for "wallpaper".
        val_per_class: validation images per class; by default all for "digits", 20 for "wallpaper".
        epochs: training epochs; by default 5 for "digits", 12 for "wallpaper".
        seconds: duration of the throughput measurement, in seconds.
        seed: random seed.

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
