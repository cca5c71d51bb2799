"""A backbone's blocks behind a normalisation and before a new head, to be cut at any border."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from contract.errors import CheckpointError
from contract.preprocess import PreprocessSpec
from tune.families import Stage, family_of

HEAD = "head"
ALL = "all"
_HEAD_PREFIX = "unfreeze_head."


class Normalise(nn.Module):
    """Prepared pictures, uint8 [N, H, W, 3] in RGB, to float32 [N, 3, H, W] of about zero mean and unit variance.

    It casts before it transposes: TensorRT's parser refuses the transpose of uint8.

    Args:
        spec: whose mean and std are on the scale of 0 to 1.
    """

    def __init__(self, spec: PreprocessSpec) -> None:
        super().__init__()
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (mean / std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Cast, transpose, scale and shift."""
        return pixels.to(self.scale.dtype).permute(0, 3, 1, 2) * self.scale - self.shift


class Head(nn.Module):
    """Pool, standardise, classify: activations [N, F, h, w] to logits [N, C].

    The features' mean and standard deviation over the training pictures are kept beside the linear layer, so that it
    is well conditioned whatever the backbone's scale: SqueezeNet's features, say, have never been normalised.

    Args:
        features: F.
        classes: C.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("inverse_std", torch.ones(features))
        self.linear = nn.Linear(features, classes)

    def forward(self, activations: Tensor) -> Tensor:
        """Classify activations."""
        return self.classify(pool(activations))

    def classify(self, pooled: Tensor) -> Tensor:
        """Classify pooled features [N, F]."""
        return self.linear((pooled - self.mean) * self.inverse_std)


def load_weights(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give a model all its weights.

    `state` may have lost the layout's version, which `state_dict` keeps beside the tensors and without which MNASNet
    does not load; the model's own is used.

    Raises:
        RuntimeError: keys or shapes differ.
    """
    own = model.state_dict()
    if own.keys() != state.keys():
        raise RuntimeError(f"the weights' names differ: {sorted(own.keys() ^ state.keys())[:5]}")
    own.update(state)
    model.load_state_dict(own)


def pool(activations: Tensor) -> Tensor:
    """Average over the picture's area, in float32: [N, F, h, w] to [N, F]."""
    return activations.float().mean((2, 3))


class Network(nn.Module):
    """Pictures, uint8 [N, H, W, 3], to logits, float32 [N, C].

    The torchvision model stays whole inside, so that its state-dict keys stay torchvision's.

    Args:
        backbone: torchvision's name of the model.
        model: the model itself; its stock classifier is dropped.
        spec: how its pictures are prepared.
        classes: C.
    """

    def __init__(self, backbone: str, model: nn.Module, spec: PreprocessSpec, classes: int) -> None:
        super().__init__()
        family = family_of(backbone)
        self._blocks = family.blocks(model)
        for prefix in family.classifier_prefixes:
            name = prefix.rstrip(".")
            if getattr(model, name, None) is not None:
                setattr(model, name, nn.Identity())
        self.model = model
        self._width_axis = family.width_axis
        self._picture_shape = spec.shape
        self.normalise = Normalise(spec)
        self.head = Head(_width(self._blocks, spec), classes)

    @property
    def block_names(self) -> tuple[str, ...]:
        """The blocks in order from the input: each is a cut, whose tail begins with it."""
        return tuple(block.name for block in self._blocks)

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a prepared picture."""
        return self._picture_shape

    def position(self, cut: str) -> int:
        """Count the blocks before a cut: 0 for "all", all of them for "head".

        Raises:
            CheckpointError: there is no such block; the message lists them.
        """
        if cut in (HEAD, ALL):
            return len(self._blocks) if cut == HEAD else 0
        if cut not in self.block_names:
            raise CheckpointError(f"there is no block {cut!r}; cut at head, all or {', '.join(self.block_names)}")
        return self.block_names.index(cut)

    def forward(self, pixels: Tensor) -> Tensor:
        """Classify prepared pictures."""
        return self.run_tail(pixels, 0)

    def flipped(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Mirror half of the cached pictures or activations, chosen at random; tokens stay as they are."""
        axis = 2 if batch.dtype == torch.uint8 else self._width_axis
        if axis is None:
            return batch
        chosen = torch.rand(len(batch), generator=generator) < 0.5  # noqa: PLR2004 - half
        return torch.where(chosen.view(-1, 1, 1, 1).to(batch.device), batch.flip(axis), batch)

    def run_tail(self, inputs: Tensor, position: int) -> Tensor:
        """Apply the blocks from `position` on and the head: to logits [N, C]."""
        return self.head(self.run_blocks(inputs, position, len(self._blocks)))

    def run_blocks(self, inputs: Tensor, first: int, last: int) -> Tensor:
        """Apply blocks `first` to `last - 1`; where `first` is 0, to pictures (uint8 NHWC), which are normalised."""
        # uint8 comes only from pictures: a cut before the first block has them, and nothing else, in its cache.
        activations = self.normalise(inputs) if inputs.dtype == torch.uint8 else inputs
        for block in self._blocks[first:last]:
            for module in block.modules:
                activations = module(activations)
        return activations

    def block_parameters(self, first: int, last: int | None = None) -> Iterator[nn.Parameter]:
        """Give the parameters of blocks `first` to `last - 1`, the head's not among them."""
        for block in self._blocks[first:last]:
            for module in block.modules:
                yield from module.parameters()

    def train_from(self, position: int) -> None:
        """Let the blocks from `position` on learn, in training mode; freeze those before, in eval mode."""
        self.eval()
        self.requires_grad_(requires_grad=False)
        for block in self._blocks[position:]:
            for module in block.modules:
                module.train().requires_grad_()
        self.head.train().requires_grad_()

    def export_state(self) -> dict[str, Tensor]:
        """Give all weights: the blocks' under torchvision's keys, the head's under a prefix that none of them has."""
        state = {key: value.contiguous() for key, value in self.model.state_dict().items()}
        return state | {_HEAD_PREFIX + key: value for key, value in self.head.state_dict().items()}

    def import_state(self, state: dict[str, Tensor]) -> None:
        """Take all weights as `export_state` gives them.

        Raises:
            RuntimeError: keys or shapes differ.
        """
        head = {key.removeprefix(_HEAD_PREFIX): value for key, value in state.items() if key.startswith(_HEAD_PREFIX)}
        self.head.load_state_dict(head)
        load_weights(self.model, {key: value for key, value in state.items() if not key.startswith(_HEAD_PREFIX)})


def _width(blocks: tuple[Stage, ...], spec: PreprocessSpec) -> int:
    """Run one empty picture through, to see how many features come out."""
    modules = [module for block in blocks for module in block.modules]
    modes = [(child, child.training) for module in modules for child in module.modules()]
    activations = torch.zeros(1, 3, *spec.crop)
    with torch.inference_mode():
        for module in modules:
            activations = module.eval()(activations)
    for child, training in modes:
        child.training = training
    return activations.shape[1]
