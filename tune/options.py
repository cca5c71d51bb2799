"""What a tuning run may be told, validated once."""

from dataclasses import dataclass
from typing import Literal

from contract.options import check_ranges

GENTLE_RATE = 2e-3  # spoils no features that fit already


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """How to tune.

    Args:
        backbone: torchvision's name of the network.
        weights: "default" (downloaded by torchvision), "builtin", "none" (random), or a file.
        cut: "auto" (chosen by cross-validation), "head", "all", or the first block to train.
        epochs: passes over the pictures for the blocks behind the cut.
        seed: of everything random.
        device: "auto", "cpu" or "cuda".
        views: versions of each picture in the cache: the picture as served, and random crops and flips of it.
        batch_size: pictures a step.
        learning_rate: the head's, at its highest; blocks get at most a tenth of it, less toward the input. Without it,
            cross-validation chooses a gentle one or a bold one.
        weight_decay: AdamW's, for weights; norms and biases get none.
        label_smoothing: how much probability is spread over all classes, 0 to 1.
        val_fraction: how much of the training pictures validates where there is no val folder, 0 to 1.
        cache_gb: memory for the cached activations, in GB; above it they go to a file in the run's folder.

    Raises:
        OptionsError: a value is out of its range.
    """

    backbone: str = "mobilenet_v3_small"
    weights: str = "default"
    cut: str = "auto"
    epochs: int = 12
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    views: int = 4
    batch_size: int = 32
    learning_rate: float | None = None
    weight_decay: float = 0.02
    label_smoothing: float = 0.1
    val_fraction: float = 0.2
    cache_gb: float = 4.0

    def __post_init__(self) -> None:
        """Validate once, where it is built."""
        ranges = {
            "epochs": (1, 10_000),
            "views": (1, 64),
            "batch_size": (2, 65_536),
            "seed": (0, 2**32 - 1),
            "learning_rate": (1e-8, 10.0),
            "weight_decay": (0.0, 10.0),
            "label_smoothing": (0.0, 0.9),
            "val_fraction": (0.01, 0.9),
            "cache_gb": (0.0, 100_000.0),
        }
        check_ranges(vars(self), ranges)

    @property
    def head_rate(self) -> float:
        """The learning rate that was asked for, or else the gentle one."""
        return GENTLE_RATE if self.learning_rate is None else self.learning_rate
