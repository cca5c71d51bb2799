"""The registered sources of backbones, and how their names are written.

| `--backbone` | source |
|---|---|
| `NAME`, `torchvision/NAME` | torchvision |
| `timm/NAME` | timm |
| `hf-hub:ORG/NAME` | a timm model in a repository on the Hugging Face Hub |
| `package.module:function` | a function that returns a module |
| `SOURCE/NAME` | another registered source |

To add a source, implement `unfreeze.tune.backbones.source.BackboneSource` in a separate file and register an instance
in `SOURCES`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from unfreeze.contract.errors import WeightsError
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.tune.backbones.module_source import ModuleSource
from unfreeze.tune.backbones.source import BackboneSource, ImageSize, Structure
from unfreeze.tune.backbones.timm_source import TimmSource
from unfreeze.tune.backbones.torchvision_source import TorchvisionSource

AUTO = "auto"
DEFAULT_SOURCE, HUB, MODULE = "torchvision", "hf-hub", "module"
SOURCES: dict[str, BackboneSource] = {
    DEFAULT_SOURCE: TorchvisionSource(),
    "timm": TimmSource(),
    HUB: TimmSource(f"{HUB}:"),
    MODULE: ModuleSource(),
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
        if self.source == MODULE:
            return self.name
        return f"{self.source}{':' if self.source == HUB else '/'}{self.name}"

    def license(self) -> str:
        """Return the license of the default weights; empty if the source states none."""
        stated = getattr(SOURCES[self.source], "license", None)  # sources of earlier versions have none
        return "" if stated is None else str(stated(self.name))

    def preprocess(self) -> PreprocessSpec:
        """Return the preprocessing that the pretrained weights expect."""
        return SOURCES[self.source].preprocess(self.name)

    def build(self, image_size: ImageSize) -> nn.Module:
        """Build the model with random weights."""
        return SOURCES[self.source].build(self.name, image_size)

    def classifier_prefixes(self, model: nn.Module) -> tuple[str, ...]:
        """Return prefixes of the keys of the classifiers."""
        return SOURCES[self.source].classifier_prefixes(self.name, model)

    def structure(self, model: nn.Module, image_size: ImageSize) -> Structure:
        """Split the model into blocks."""
        return SOURCES[self.source].structure(self.name, model, image_size)

    def load_pretrained_state(self, image_size: ImageSize) -> dict[str, Tensor]:
        """Return the pretrained weights."""
        return SOURCES[self.source].load_pretrained_state(self.name, image_size)

    def convert_state(self, state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """Convert a published state dict."""
        return SOURCES[self.source].convert_state(self.name, state, model)


def find_backbone(backbone: str) -> Backbone:
    """Parse a backbone's name; the part after the source may contain further slashes.

    Raises:
        WeightsError: the source is not registered.
    """
    if backbone == AUTO:
        raise WeightsError(
            "--backbone auto is an option of `unfreeze tune` in a single process; elsewhere, run unfreeze compare (in "
            "Python: unfreeze.compare_backbones) and give the backbone that it recommends"
        )
    if backbone.startswith(f"{HUB}:"):
        return Backbone(source=HUB, name=backbone.removeprefix(f"{HUB}:"))
    source, slash, name = backbone.partition("/")
    if not slash:
        return Backbone(source=MODULE if ":" in backbone else DEFAULT_SOURCE, name=backbone)
    if source not in SOURCES or source in (HUB, MODULE):
        raise WeightsError(
            f"unknown source {source!r} in --backbone {backbone}; expected NAME, torchvision/NAME, timm/NAME, "
            f"hf-hub:ORG/NAME or package.module:function{_others()}"
        )
    return Backbone(source=source, name=name)


def _others() -> str:
    return "".join(f", or {source}/NAME" for source in SOURCES if source not in (DEFAULT_SOURCE, "timm", HUB, MODULE))
