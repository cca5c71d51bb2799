"""Low-rank adapters of the attention's linear layers, and their merging into the weights."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from unfreeze.tune.backbones.source import Block

_ALPHA = 16  # Hu et al. divide it by the rank, so that a learning rate suits all ranks
_NAMES = ("attention", "attn")  # in the class or in the path of a module


@dataclass(frozen=True, kw_only=True)
class AttentionWeight:
    """A matrix of an attention's linear layer.

    Args:
        module: path of the layer.
        name: of the parameter in the layer.
    """

    module: str
    name: str


class LowRankAdapter(nn.Module):
    """Add a trained matrix of low rank to a frozen weight: W + alpha / r * B A (Hu et al. 2021, arXiv:2106.09685).

    B is zero at first, so that training starts from the frozen weight.

    Args:
        weight: W, [out, in].
        place: of W in the model.
        rank: r.
        generator: draws A.
    """

    def __init__(self, weight: Tensor, place: AttentionWeight, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.place = place
        rows, columns = weight.shape
        drawn = torch.empty(rank, columns)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)  # as for a linear layer
        self.down = nn.Parameter(drawn.to(weight))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        self.scale = _ALPHA / rank

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight."""
        return weight + self.scale * (self.up @ self.down)


def attention_weights(model: nn.Module, block: Block) -> tuple[AttentionWeight, ...]:
    """Find the matrices of the linear layers inside attention modules of a block.

    A module is an attention if its class or its path says so. `nn.MultiheadAttention` holds the matrices of its input
    projections itself.

    Args:
        model: the block's model.
        block: the block.
    """
    found = []
    for path, module in model.named_modules():
        names = [name for name, own in module.named_parameters(recurse=False) if own.ndim == 2]  # noqa: PLR2004
        holds = isinstance(module, nn.Linear | nn.MultiheadAttention) and _is_in_attention(model, path)
        found += [
            AttentionWeight(module=path, name=name) for name in names if holds and _is_used(block, f"{path}.{name}")
        ]
    return tuple(found)


def add_adapters(
    model: nn.Module, blocks: Sequence[Block], rank: int, generator: torch.Generator
) -> tuple[tuple[LowRankAdapter, ...], ...]:
    """Adapt the attention of some blocks; the outputs do not change until the adapters are trained.

    Args:
        model: the blocks' model; it is changed.
        blocks: the blocks.
        rank: of the adapters; less where a matrix is smaller.
        generator: draws their initial weights.

    Returns:
        The adapters of each block.
    """
    return tuple(tuple(_adapted(model, block, rank, generator)) for block in blocks)


def _adapted(model: nn.Module, block: Block, rank: int, generator: torch.Generator) -> Iterator[LowRankAdapter]:
    for one in attention_weights(model, block):
        module = model.get_submodule(one.module)
        weight: Tensor = getattr(module, one.name)
        adapter = LowRankAdapter(weight.detach(), one, min(rank, *weight.shape), generator)
        parametrize.register_parametrization(module, one.name, adapter)
        yield adapter


def merge_adapters(model: nn.Module, adapters: Iterable[LowRankAdapter]) -> None:
    """Replace every adapted weight by its value, and remove the adapters.

    Args:
        model: their model; it is changed.
        adapters: as returned by `add_adapters`.
    """
    for adapter in adapters:
        module = model.get_submodule(adapter.place.module)
        parametrize.remove_parametrizations(module, adapter.place.name, leave_parametrized=True)


def _is_in_attention(model: nn.Module, path: str) -> bool:
    parts = path.split(".")
    ancestors = (model.get_submodule(".".join(parts[: count + 1])) for count in range(len(parts)))
    words = (path, *(type(module).__name__ for module in ancestors))
    return any(name in word.lower() for word in words for name in _NAMES)


def _is_used(block: Block, path: str) -> bool:
    return path in block.tensors or any(path.startswith(f"{module}.") for module in block.modules)
