"""What a source of backbones provides: models, how they split into blocks, and pretrained weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from unfreeze.contract.images.preprocess import PreprocessSpec


@dataclass(frozen=True, kw_only=True)
class Block:
    """A few consecutive modules of a backbone, trained or frozen together.

    Args:
        name: the name of its first module in the model; a cut before this block has the same name.
        modules: applied one after the other.
    """

    name: str
    modules: tuple[nn.Module, ...]


@dataclass(frozen=True, kw_only=True)
class Structure:
    """How a model splits into blocks.

    Args:
        blocks: in order from the input, without the stock classifier; together they map images, float32 [N, 3, H, W],
            to feature maps [N, F, h, w]. No block may begin with an in-place operation, because the activations
            before it may be cached.
        classifier: the stock classifier, including its pooling; the model equals the blocks followed by it.
        classifier_prefixes: prefixes of the state-dict keys of the stock classifier and of auxiliary classifiers.
        width_axis: axis of the image's width in the activations between blocks; None for tokens, [N, T, F].
    """

    blocks: tuple[Block, ...]
    classifier: Block
    classifier_prefixes: tuple[str, ...]
    width_axis: int | None = 3


class BackboneSource(Protocol):
    """Where backbones come from, for example a model library. See `unfreeze.tune.backbones.sources` to register one."""

    def build(self, name: str, **options: Any) -> nn.Module:
        """Build a model with random weights from torch's current seed, including its stock classifier.

        Args:
            name: the model's name in this source.
            options: passed on to the source's own builder.

        Raises:
            WeightsError: the source has no such model, or cannot split it into blocks.
        """

    def structure(self, name: str, model: nn.Module) -> Structure:
        """Split a model that `build` has made into blocks.

        Raises:
            WeightsError: the source cannot split this model into blocks.
        """

    def preprocess(self, name: str) -> PreprocessSpec:
        """Return the preprocessing that the pretrained weights expect, without downloading anything."""

    def load_pretrained_state(self, name: str) -> dict[str, Tensor]:
        """Return the state dict of the source's best pretrained weights, downloaded on first use.

        Raises:
            WeightsError: there are none, or they cannot be downloaded or read.
        """

    def convert_state(self, name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the keys of a state dict from the source's published files to those of the model that `build` makes.

        Keys that need no renaming, and keys that belong to no backbone, are returned unchanged.
        """
