"""The registered sources of backbones.

A backbone is named `NAME` or `SOURCE/NAME`; without a source, it is torchvision's. To add a source, implement
`unfreeze.tune.backbones.source.BackboneSource` in a separate file and register an instance in `SOURCES`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from unfreeze.contract.errors import WeightsError
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.tune.backbones.source import BackboneSource, Structure
from unfreeze.tune.backbones.torchvision_source import TorchvisionSource

DEFAULT_SOURCE = "torchvision"
SOURCES: dict[str, BackboneSource] = {
    DEFAULT_SOURCE: TorchvisionSource(),
}


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A model of a registered source; its methods are those of `BackboneSource`.

    Args:
        source: the source's name in `SOURCES`.
        name: the model's name in that source.
    """

    source: str
    name: str

    def __str__(self) -> str:
        return f"{self.source}/{self.name}"

    def build(self, **options: Any) -> nn.Module:
        """Build the model with random weights."""
        return SOURCES[self.source].build(self.name, **options)

    def structure(self, model: nn.Module) -> Structure:
        """Split the model into blocks."""
        return SOURCES[self.source].structure(self.name, model)

    def preprocess(self) -> PreprocessSpec:
        """Return the preprocessing that the pretrained weights expect."""
        return SOURCES[self.source].preprocess(self.name)

    def load_pretrained_state(self) -> dict[str, Tensor]:
        """Return the pretrained weights."""
        return SOURCES[self.source].load_pretrained_state(self.name)

    def convert_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the keys of a published state dict."""
        return SOURCES[self.source].convert_state(self.name, state)


def find_backbone(backbone: str) -> Backbone:
    """Parse `NAME` or `SOURCE/NAME`; NAME may contain further slashes.

    Raises:
        WeightsError: the source is not registered.
    """
    source, slash, name = backbone.partition("/")
    if not slash:
        return Backbone(source=DEFAULT_SOURCE, name=backbone)
    if source not in SOURCES:
        raise WeightsError(
            f"unknown source {source!r} in --backbone {backbone}; available sources: {', '.join(SOURCES)}"
        )
    return Backbone(source=source, name=name)


def build(backbone: str, **options: Any) -> nn.Module:
    """Build a backbone, `NAME` or `SOURCE/NAME`, with random weights.

    Raises:
        WeightsError: the source or the model is unknown, or the model cannot be split into blocks.
    """
    return find_backbone(backbone).build(**options)
