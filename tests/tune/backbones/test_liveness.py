"""A graph can be cut where a single tensor is alive; what a later block can compute again does not count."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unfreeze.contract.errors import WeightsError
from unfreeze.tune.backbones.blocks import split
from unfreeze.tune.backbones.liveness import find_cuts
from unfreeze.tune.backbones.source import Block
from unfreeze.tune.backbones.tracing import trace

SIZE = (8, 8)


class Layers(nn.Module):
    """Three convolutions, used as a function says."""

    def __init__(self, run: Callable[["Layers", Tensor], Tensor], width: int = 4) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.position = nn.Parameter(torch.rand(1, width, 1, 1))
        self.table = nn.Parameter(torch.rand(1, width, 4, 4))
        self.run = run

    def forward(self, images: Tensor) -> Tensor:
        """Run the function."""
        return self.run(self, images)


def _chain(m: Layers, x: Tensor) -> Tensor:
    return m.c(m.b(m.a(x)))


def _residual(m: Layers, x: Tensor) -> Tensor:
    start = m.a(x)
    return m.c(start + m.b(start))


def _in_place_after(m: Layers, x: Tensor) -> Tensor:
    return m.c(m.b(nn.functional.relu(m.a(x), inplace=True)))


def _in_place_through_a_view(m: Layers, x: Tensor) -> Tensor:
    maps = m.a(x)
    maps.flatten(2).mul_(2)
    return m.c(m.b(maps))


def _permuted_batch(m: Layers, x: Tensor) -> Tensor:
    maps = m.a(x).transpose(0, 1)
    return m.c(m.b((maps * 2).transpose(0, 1)))


def _folded_batch(m: Layers, x: Tensor) -> Tensor:
    batch, _, height, width = x.shape
    windows = m.a(x).view(batch, -1, 2, height // 2, width).transpose(1, 2).reshape(batch * 2, -1, height // 2, width)
    maps = m.b(windows)
    return m.c(maps.view(batch, 2, -1, height // 2, width).transpose(1, 2).reshape(batch, -1, height, width))


def _positions(m: Layers, x: Tensor) -> Tensor:
    maps = m.a(x)
    positions = nn.functional.interpolate(m.table, maps.shape[-2:]) + m.position
    return m.c(m.b(maps + positions) + positions)


def _rotary(m: Layers, x: Tensor) -> Tensor:
    maps = m.a(x)
    angles = torch.arange(maps.shape[-1], device=maps.device, dtype=maps.dtype).expand(x.shape[0], 1, 1, -1)
    return m.c(m.b(maps * angles.cos()) * angles.sin())


def _changed_constant(m: Layers, x: Tensor) -> Tensor:
    maps = m.a(x)
    shift = torch.zeros(maps.shape[1:])
    shift.add_(1)
    return m.c(m.b(maps) * shift)


def _cuts(run: Callable[[Layers, Tensor], Tensor]) -> list[str]:
    model = Layers(run).eval()
    liveness = find_cuts(model, trace(model).graph, SIZE)
    return [node.name for node in liveness.cuts if node is not liveness.output]


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (_chain, ["a", "b"]),
        (_residual, ["a", "add"]),
        (_in_place_after, ["relu", "b"]),
        (_in_place_through_a_view, ["b"]),
        (_permuted_batch, ["a", "transpose_1", "b"]),
        (_folded_batch, ["a", "view", "transpose", "view_1", "transpose_1", "reshape_1"]),
        (_positions, ["a", "add_1", "b", "add_2"]),
        (_rotary, ["a", "mul", "b", "mul_1"]),
        (_changed_constant, ["a", "mul"]),
    ],
)
def test_cuts_are_where_one_unchanged_tensor_is_alive(
    run: Callable[[Layers, Tensor], Tensor], expected: list[str]
) -> None:
    """Neither inside a residual, nor before an in-place change, nor where the batch is not the first axis.

    Sizes, and tensors that are computed from parameters and sizes alone, such as position embeddings, do not count. A
    constant that is changed in place does.
    """
    assert _cuts(run) == expected


@pytest.mark.parametrize(
    "run",
    [
        _chain,
        _residual,
        _in_place_after,
        _in_place_through_a_view,
        _permuted_batch,
        _folded_batch,
        _positions,
        _rotary,
        _changed_constant,
    ],
)
@pytest.mark.parametrize("batch", [1, 5])
def test_blocks_compute_the_model_at_every_batch_size(run: Callable[[Layers, Tensor], Tensor], batch: int) -> None:
    """Sizes are computed again from the activations, so the batch on which the cuts were found does not matter."""
    model = Layers(run).eval()
    activations = images = torch.rand(batch, 3, *SIZE)
    blocks = _blocks(model)
    assert len(blocks) > 1
    for block in blocks:
        cached = activations.clone()
        following = block.run(model, activations)
        assert torch.equal(activations, cached)
        activations = following
    assert torch.equal(activations, model(images))


def _blocks(model: nn.Module) -> tuple[Block, ...]:
    return split(model, SIZE).blocks


def test_positions_of_a_later_block_are_those_of_its_parameters() -> None:
    """What is computed again follows the parameters, and gradients reach them from the block that uses them."""
    model = Layers(_positions).eval()
    last = _blocks(model)[-1]
    maps = torch.rand(2, 4, *SIZE)
    before = last.run(model, maps)
    with torch.no_grad():
        model.table.add_(1)
    assert not torch.equal(last.run(model, maps), before)
    last.run(model, maps).sum().backward()
    assert model.table.grad is not None


def test_the_models_mode_and_statistics_are_left_as_they_were() -> None:
    """A model in training mode is examined in eval mode; the noise does not reach its statistics."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 8), nn.BatchNorm2d(4)).train()
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    split(model, SIZE)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert [module.training for module in model] == [True, False, True, True]


def test_an_image_size_that_the_model_does_not_accept_is_refused() -> None:
    """The message says which size it was, what the model says, and which option to change."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 16, 3))
    expected = (
        r"Sequential does not accept images of 8 x 8 pixels \(addmm: mat1 and mat2 .*\); choose another --image-size"
    )
    with pytest.raises(WeightsError, match=expected):
        split(model, SIZE)


def _two_outputs(m: Layers, x: Tensor) -> Tensor:
    return m.b(m.a(x)), m.a(x)  # type: ignore[return-value]


def test_a_model_that_returns_several_tensors_is_refused() -> None:
    """The message names its class."""
    with pytest.raises(WeightsError, match="Layers must return one tensor to be cut into blocks"):
        _blocks(Layers(_two_outputs))
