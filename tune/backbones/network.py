"""A backbone's blocks between a normalization and a new head; it can be cut between any two blocks."""

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

from unfreeze.contract.errors import CheckpointError, WeightsError
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.tune.backbones.adapters import LowRankAdapter, add_adapters, attention_weights, merge_adapters
from unfreeze.tune.backbones.link import SOFTMAX
from unfreeze.tune.backbones.source import Block, Border, Structure
from unfreeze.tune.backbones.sources import find_backbone
from unfreeze.tune.options import CLASS_MEAN, STOCK, Pooling

HEAD = "head"
ALL = "all"
_HEAD_PREFIX = "unfreeze_head."


class Normalize(nn.Module):
    """Normalize prepared images: uint8 [N, H, W, 3] in RGB to float32 [N, 3, H, W] of about zero mean, unit variance.

    The cast precedes the transpose because TensorRT's parser rejects a transpose of uint8.

    Args:
        spec: preprocessing whose mean and std are on the scale 0 to 1.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, spec: PreprocessSpec) -> None:
        super().__init__()
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (mean / std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Cast, transpose, scale and shift."""
        return pixels.to(self.scale.dtype).permute(0, 3, 1, 2) * self.scale - self.shift


class Head(nn.Module):
    """Pool, standardize and classify: activations after the last block to logits [N, C].

    The features' mean and standard deviation over the training images are stored with the linear layer, which is
    therefore well conditioned for features of any scale; SqueezeNet, for example, does not normalize its features.

    Args:
        features: F.
        classes: C.
        prefix_tokens: of the activations, see `Border`.

    Attributes:
        link: how logits become probabilities, one of `link.LINKS`. Training with cross-entropy, the loss of the
            softmax, requires "softmax".
    """

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, features: int, classes: int, prefix_tokens: int = 0) -> None:
        super().__init__()
        self.link = SOFTMAX
        self._prefix_tokens = prefix_tokens
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("inverse_std", torch.ones(features))
        self.linear = nn.Linear(features, classes)

    def forward(self, activations: Tensor) -> Tensor:
        """Classify activations."""
        return self.classify(self.pool(activations))

    def pool(self, activations: Tensor) -> Tensor:
        """Pool activations after the last block to float32 [N, F]."""
        return pool(activations, self._prefix_tokens)

    def classify(self, pooled: Tensor) -> Tensor:
        """Classify pooled features [N, F]."""
        logits: Tensor = self.linear((pooled - self.mean) * self.inverse_std)
        return logits


def load_weights(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load a complete state dict into a model.

    A plain dict lacks the layout version that `state_dict` attaches and MNASNet requires; it is taken from the model.

    Raises:
        RuntimeError: keys or shapes differ.
    """
    own = model.state_dict()
    if own.keys() != state.keys():
        raise RuntimeError(f"the weights' names differ: {sorted(own.keys() ^ state.keys())[:5]}")
    own.update(state)
    model.load_state_dict(own)


def pool(activations: Tensor, prefix_tokens: int = 0) -> Tensor:
    """Average maps [N, F, h, w] or tokens [N, T, F] in float32 to [N, F]; features [N, F] are only cast.

    Args:
        activations: maps, tokens or features.
        prefix_tokens: if not 0, the first token is concatenated with the mean of those after this many: [N, 2 F]
            (Oquab et al. 2023, arXiv:2304.07193).
    """
    if prefix_tokens:
        tokens = activations.float()
        return torch.cat([tokens[:, 0], tokens[:, prefix_tokens:].mean(1)], 1)
    axes = {4: (2, 3), 3: (1,)}.get(activations.ndim)
    return activations.float() if axes is None else activations.float().mean(axes)


class Network(nn.Module):
    """Classify images: uint8 [N, H, W, 3] to logits, float32 [N, C].

    The source's model is kept as a submodule, so that state-dict keys stay those of the source.

    Args:
        backbone: the model's name, `NAME` or `SOURCE/NAME`.
        model: the model itself; its stock classifier is removed.
        spec: how images are prepared.
        classes: C.
        pooling: "stock" (the model's own), or "class-mean" (the class token and the mean of the patches' tokens).

    Raises:
        WeightsError: the model cannot be split into blocks, or has no class token where the pooling needs one.
    """

    def __init__(
        self, backbone: str, model: nn.Module, spec: PreprocessSpec, classes: int, pooling: Pooling = STOCK
    ) -> None:
        super().__init__()
        structure = find_backbone(backbone).structure(model, spec.shape[:2])
        self._blocks = _pooled_blocks(structure, pooling, backbone)
        self._adapters: dict[int, tuple[LowRankAdapter, ...]] = {}
        for path in structure.classifier.modules if structure.classifier else ():
            model.set_submodule(path, nn.Identity())
        self.model = model
        self._image_shape = spec.shape
        self.normalize = Normalize(spec)
        border = self._blocks[-1].output
        self.head = Head(_features(border), classes, border.prefix_tokens)

    @property
    def block_names(self) -> tuple[str, ...]:
        """Names of the blocks in order from the input; a cut is named after the block that follows it."""
        return tuple(block.name for block in self._blocks)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.head.linear.out_features

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a prepared image."""
        return self._image_shape

    def border_shape(self, position: int) -> tuple[int, ...]:
        """Return the shape of one image's activations after `position` blocks; at 0, of the image itself."""
        return self._blocks[position - 1].output.shape if position else self._image_shape

    def spatial_axes(self, position: int) -> tuple[int, ...]:
        """Return the axes of places in the activations after `position` blocks, see `Border`."""
        return self._blocks[position - 1].output.spatial_axes

    def position(self, cut: str) -> int:
        """Return the number of blocks before a cut: 0 for "all", all of them for "head".

        Raises:
            CheckpointError: there is no such block; the message lists the blocks.
        """
        if cut in (HEAD, ALL):
            return len(self._blocks) if cut == HEAD else 0
        if cut not in self.block_names:
            raise CheckpointError(
                f"there is no block {cut!r}; --cut must be head, all or one of {', '.join(self.block_names)}"
            )
        return self.block_names.index(cut)

    def forward(self, pixels: Tensor) -> Tensor:
        """Classify prepared images."""
        return self.run_tail(pixels, 0)

    def normalized(self, inputs: Tensor) -> Tensor:
        """Normalize images; return activations unchanged."""
        # Only images are uint8: the cache of a cut before the first block contains images.
        return self.normalize(inputs) if inputs.dtype == torch.uint8 else inputs

    def run_tail(self, inputs: Tensor, position: int) -> Tensor:
        """Apply the blocks from `position` on, and the head: to logits [N, C]."""
        logits: Tensor = self.head(self.run_blocks(inputs, position, len(self._blocks)))
        return logits

    def run_blocks(self, inputs: Tensor, first: int, last: int) -> Tensor:
        """Apply blocks `first` to `last - 1`; images (uint8 NHWC, if `first` is 0) are normalized first."""
        activations = self.normalized(inputs)
        for block in self._blocks[first:last]:
            activations = block.run(self.model, activations)
        return activations

    def block_parameters(self, first: int, last: int | None = None) -> Iterator[nn.Parameter]:
        """Yield the parameters of blocks `first` to `last - 1` without the head's; of adapted blocks, the adapters'."""
        if self._adapters:
            adapters = (self._adapters.get(index, ()) for index in range(len(self._blocks))[first:last])
            yield from (parameter for ones in adapters for one in ones for parameter in one.parameters())
            return
        for block in self._blocks[first:last]:
            for path in block.modules:
                yield from self.model.get_submodule(path).parameters()
            tensors = (_tensor(self.model, path) for path in block.tensors)
            yield from (tensor for tensor in tensors if isinstance(tensor, nn.Parameter))

    def train_only(self, blocks: Collection[int]) -> None:
        """Put the head and some blocks in training mode with gradients; freeze the others in eval mode.

        Of adapted blocks, only the adapters have gradients, and the rest stays in eval mode.

        Args:
            blocks: numbers of the trained blocks, from 0 at the input.
        """
        self.eval()
        self.requires_grad_(requires_grad=False)
        for index in blocks:
            for path in self._blocks[index].modules:
                self.model.get_submodule(path).train(not self._adapters)
            for parameter in self.block_parameters(index, index + 1):
                parameter.requires_grad_()
        self.head.train().requires_grad_()

    def trained_state(self, blocks: Collection[int]) -> dict[str, Tensor]:
        """Return the weights and batch statistics of the head and of some blocks, under this module's keys.

        Of adapted blocks, only the adapters' weights are returned.
        """
        own = (tensor for index in blocks for tensor in self._block_state(index))
        wanted = {id(tensor) for tensor in (*own, *self.head.state_dict(keep_vars=True).values())}
        return {key: value.detach() for key, value in self.state_dict(keep_vars=True).items() if id(value) in wanted}

    def _block_state(self, index: int) -> Iterator[Tensor]:
        """Yield the weights and batch statistics of a block; of an adapted one, the adapters' weights."""
        if self._adapters:
            yield from self.block_parameters(index, index + 1)
            return
        block = self._blocks[index]
        for path in block.modules:
            yield from self.model.get_submodule(path).state_dict(keep_vars=True).values()
        yield from (_tensor(self.model, path) for path in block.tensors)

    def adapt(self, blocks: Collection[int], rank: int, seed: int) -> None:
        """Add low-rank adapters to the attention of some blocks, which are trained instead of the blocks' weights.

        Args:
            blocks: numbers of the blocks.
            rank: of the adapters.
            seed: of their initial weights.
        """
        numbers, generator = sorted(blocks), torch.Generator().manual_seed(seed)
        adapters = add_adapters(self.model, [self._blocks[index] for index in numbers], rank, generator)
        self._adapters = dict(zip(numbers, adapters, strict=True))

    def merge_adapters(self) -> None:
        """Merge the adapters into the weights, so that the network has its own layers and keys again."""
        merge_adapters(self.model, (adapter for adapters in self._adapters.values() for adapter in adapters))
        self._adapters = {}

    def has_attention(self, blocks: Collection[int]) -> bool:
        """Return whether some of the blocks have linear layers inside an attention, which can be adapted."""
        return any(attention_weights(self.model, self._blocks[index]) for index in blocks)

    def pool_border(self, activations: Tensor, position: int) -> Tensor:
        """Pool the activations between two blocks by average and by maximum: to float32 [N, 2 F], averages first.

        Behind the last block, they are pooled as for the head if it takes the class token.

        Args:
            activations: feature maps, pooled over height and width; tokens, pooled over all tokens; or features
                [N, F], which are returned as they are.
            position: number of blocks that computed them.
        """
        border = self._blocks[position - 1].output
        axes = border.spatial_axes
        if not axes:
            return activations.float()
        if border.prefix_tokens:
            return self.head.pool(activations)
        return torch.cat([activations.mean(axes, dtype=torch.float32), activations.amax(axes).float()], 1)

    def export_state(self) -> dict[str, Tensor]:
        """Return all weights: the blocks' under the source's keys, the head's under a separate prefix."""
        state = {key: value.contiguous() for key, value in self.model.state_dict().items()}
        return state | {_HEAD_PREFIX + key: value for key, value in self.head.state_dict().items()}

    def import_state(self, state: dict[str, Tensor]) -> None:
        """Load all weights, as returned by `export_state`.

        Raises:
            RuntimeError: keys or shapes differ.
        """
        head = {key.removeprefix(_HEAD_PREFIX): value for key, value in state.items() if key.startswith(_HEAD_PREFIX)}
        self.head.load_state_dict(head)
        load_weights(self.model, {key: value for key, value in state.items() if not key.startswith(_HEAD_PREFIX)})


def _pooled_blocks(structure: Structure, pooling: Pooling, backbone: str) -> tuple[Block, ...]:
    """Return the blocks up to what the head pools."""
    if pooling == STOCK:
        return structure.blocks
    if structure.token_block is None:
        raise WeightsError(
            f"--pooling {CLASS_MEAN} needs a vision transformer that pools its tokens, a class token among them, "
            f"without further weights; {backbone} does not: use --pooling {STOCK}"
        )
    return (*structure.blocks[:-1], structure.token_block)


def _features(output: Border) -> int:
    """Return the number of features after pooling.

    Raises:
        WeightsError: the backbone ends with maps whose last axis holds the features.
    """
    if output.spatial_axes == (1, 2):
        raise WeightsError(
            f"the backbone ends with maps of shape {output.shape}; expected features [N, F], maps [N, F, h, w] or "
            "tokens [N, T, F]"
        )
    features = output.shape[-1] if output.spatial_axes == (1,) else output.shape[0]
    return 2 * features if output.prefix_tokens else features


def _tensor(model: nn.Module, path: str) -> Tensor:
    parent, _, name = path.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(parent), name)
    return tensor
