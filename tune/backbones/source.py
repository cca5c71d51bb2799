"""What a source of backbones provides: models, how they split into blocks, and pretrained weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from unfreeze.contract.images.preprocess import PreprocessSpec

ImageSize = tuple[int, int]  # height and width in pixels


@dataclass(frozen=True, kw_only=True)
class Border:
    """The single tensor between two blocks.

    Args:
        shape: for one image, without the batch axis.
        spatial_axes: axes over which the tensor, with its batch axis, is pooled: (2, 3) for feature maps
            [N, F, h, w], (1, 2) for [N, h, w, F], (1,) for tokens [N, T, F], none for features [N, F].
        prefix_tokens: number of tokens before those of the patches, if the tensor is pooled to its first token, the
            class token, and the mean of the patches' tokens. 0 if all tokens are averaged alike.
    """

    shape: tuple[int, ...]
    spatial_axes: tuple[int, ...]
    prefix_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of a model between two cuts, trained or frozen as a whole.

    A block refers to the model's modules by their paths, so it can be used with any copy of the model.

    Args:
        name: the path of its first module with weights; the cut before the block has the same name.
        run: maps the model and the activations before the block to those after it.
        modules: paths of the modules that it calls, without those of earlier blocks.
        tensors: paths of the parameters and buffers that it reads directly, without those of earlier blocks.
        output: the tensor after the block.
    """

    name: str
    run: Callable[[nn.Module, Tensor], Tensor]
    modules: tuple[str, ...]
    tensors: tuple[str, ...]
    output: Border


@dataclass(frozen=True, kw_only=True)
class Structure:
    """How a model splits into blocks.

    Args:
        blocks: in order from the input, without the stock classifier; together they map images, float32 [N, 3, H, W],
            to features: maps [N, F, h, w], tokens [N, T, F] or [N, F]. No block changes its input in place, because
            the activations before it may be cached.
        classifier: the stock classifier, including its pooling: the model equals the blocks followed by it. None if the
            model ends with the features.
        token_block: the last block up to the tokens that the features are pooled from. None without a class token, and
            if the pooling has weights.
    """

    blocks: tuple[Block, ...]
    classifier: Block | None = None
    token_block: Block | None = None


class BackboneSource(Protocol):
    """Where backbones come from, for example a model library. See `unfreeze.tune.backbones.sources` to register one."""

    def license(self, name: str) -> str:
        """Return the license of the default weights as the source states it; empty if it does not."""

    def preprocess(self, name: str) -> PreprocessSpec:
        """Return the preprocessing that the pretrained weights expect.

        Raises:
            WeightsError: the source has no such model.
        """

    def build(self, name: str, image_size: ImageSize) -> nn.Module:
        """Build a model with random weights from torch's current seed.

        Args:
            name: the model's name in this source.
            image_size: size of its images; networks with position embeddings of a fixed size are built for it.

        Raises:
            WeightsError: the source has no such model, or cannot build it for this size.
        """

    def classifier_prefixes(self, name: str, model: nn.Module) -> tuple[str, ...]:
        """Return prefixes of the state-dict keys of the stock classifier and of auxiliary ones, like "classifier."."""

    def structure(self, name: str, model: nn.Module, image_size: ImageSize) -> Structure:
        """Split a model that `build` has made into blocks.

        Raises:
            WeightsError: the model cannot be split into blocks.
        """

    def load_pretrained_state(self, name: str, image_size: ImageSize) -> dict[str, Tensor]:
        """Return the state dict of the source's best pretrained weights, downloaded on first use.

        Args:
            name: the model's name in this source.
            image_size: size of the images, for position embeddings.

        Raises:
            WeightsError: there are none, or they cannot be downloaded or read.
        """

    def convert_state(self, name: str, state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """Convert a state dict of the source's published files to that of a model that `build` has made.

        Renames keys of older layouts, and interpolates position embeddings of another image size. Keys that need no
        conversion, and keys that belong to no backbone, are returned unchanged.
        """
