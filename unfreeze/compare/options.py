"""Options of a comparison, validated at construction."""

from dataclasses import dataclass
from pathlib import Path

from unfreeze.compare.presets import PRESETS
from unfreeze.contract.errors import OptionsError
from unfreeze.contract.options import check_ranges

DEFAULT_PRESET = "small"
_RANGES: dict[str, tuple[float, float]] = {"budget_ms": (0.01, 1_000_000), "images": (6, 1_000_000)}


@dataclass(frozen=True, kw_only=True)
class BackboneChoice:
    """A backbone and the weights to start from.

    Args:
        backbone: its name, as for `unfreeze tune --backbone`.
        weights: as for `unfreeze tune --weights`.
        label: the name in tables: of the backbone, and of the weights if it is compared with several ones.
    """

    backbone: str
    weights: str
    label: str


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Options of a comparison.

    Args:
        backbones: "edge", "small" or "server", see `unfreeze.compare.presets`; or a comma-separated list of
            `NAME` or `NAME=WEIGHTS`, where the weights are a file or folder, "default", "builtin" or "none".
        budget_ms: largest acceptable latency of one image, in milliseconds: of the exported model in ONNX Runtime on
            this machine, without decoding and resizing the image. None accepts all.
        images: largest number of training images to compare on.
        fresh: compute and time everything again, also what earlier comparisons stored.

    Raises:
        OptionsError: a value is out of its range, or the backbones are not a valid list.
    """

    backbones: str = DEFAULT_PRESET
    budget_ms: float | None = None
    images: int = 4000
    fresh: bool = False

    def __post_init__(self) -> None:
        """Validate the values."""
        check_ranges(vars(self), _RANGES)
        labels = [choice.label for choice in self.choices]
        twice = [label for label in labels if labels.count(label) > 1]
        if twice:
            raise OptionsError(f"--backbones names {twice[0]} twice; give every backbone with other weights")

    @property
    def choices(self) -> tuple[BackboneChoice, ...]:
        """The backbones to compare."""
        preset = PRESETS.get(self.backbones)
        parsed = [_parse(one.strip()) for one in (preset.backbones if preset else self.backbones.split(","))]
        names = [backbone for backbone, _ in parsed]
        return tuple(
            BackboneChoice(
                backbone=backbone,
                weights=weights,
                label=backbone if names.count(backbone) == 1 else f"{backbone}={Path(weights).name}",
            )
            for backbone, weights in parsed
        )


def _parse(text: str) -> tuple[str, str]:
    backbone, equals, weights = text.partition("=")
    if not backbone or (equals and not weights):
        raise OptionsError(
            f"--backbones must be {', '.join(PRESETS)}, or a comma-separated list of NAME or NAME=WEIGHTS; got {text!r}"
        )
    return backbone, weights or "default"
