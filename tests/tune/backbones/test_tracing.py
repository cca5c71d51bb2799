"""A model is traced as deep as it computes the same in either mode; the rest are single calls."""

import pytest
import torch
from torch import Tensor, nn

from unfreeze.contract.errors import WeightsError
from unfreeze.tune.backbones.blocks import split
from unfreeze.tune.backbones.tracing import trace


class Inner(nn.Module):
    """A convolution, and then what a subclass does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Convolve."""
        return self.after(self.layer(images))

    def after(self, maps: Tensor) -> Tensor:
        """Change nothing."""
        return maps + 1


class ReadsMode(Inner):
    """Behaves otherwise in training."""

    def after(self, maps: Tensor) -> Tensor:
        """Negate in training."""
        return -maps if self.training else maps


class FunctionalDropout(Inner):
    """Passes its mode on."""

    def after(self, maps: Tensor) -> Tensor:
        """Drop."""
        return nn.functional.dropout(maps, 0.5, training=self.training)


class BranchesOnValues(Inner):
    """Depends on the images' content."""

    def after(self, maps: Tensor) -> Tensor:
        """Negate dark images."""
        return -maps if maps.mean() > 0 else maps


class BranchesOnSizes(Inner):
    """Depends on the images' size."""

    def after(self, maps: Tensor) -> Tensor:
        """Crop odd ones."""
        return maps[..., :-1] if maps.shape[-1] % 2 else maps


class Outer(nn.Module):
    """A convolution before and after a module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Conv2d(3, 3, 1), inner, nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Apply all three."""
        return self.last(self.inner(self.first(images)))


def _calls(model: nn.Module) -> list[str]:
    return [str(node.target) for node in trace(model).graph.nodes if node.op == "call_module"]


def test_a_module_that_computes_the_same_in_both_modes_is_traced_through() -> None:
    """Its inside is in the graph, and the node of its result is known to be its own."""
    traced = trace(Outer(Inner()))
    assert [str(node.target) for node in traced.graph.nodes if node.op == "call_module"] == [
        "first",
        "inner.layer",
        "last",
    ]
    assert traced.opaque == {}
    assert ["inner"] in traced.returned_by.values()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        (ReadsMode, "depends on the training mode"),
        (FunctionalDropout, "_UnknownMode"),
        (BranchesOnValues, "cannot be used as inputs to control flow"),
        (BranchesOnSizes, "cannot be used as inputs to control flow"),
    ],
)
def test_a_module_that_branches_is_one_call(inner: type[Inner], reason: str, training: bool) -> None:  # noqa: FBT001
    """Whatever the mode while tracing, nothing of it is fixed; the mode itself is left as it was."""
    model = Outer(inner()).train(training)
    traced = trace(model)
    assert [str(node.target) for node in traced.graph.nodes if node.op == "call_module"] == ["first", "inner", "last"]
    assert list(traced.opaque) == ["inner"]
    assert reason in traced.opaque["inner"]
    assert all(module.training is training for module in model.modules())


def test_a_module_that_depends_on_the_mode_does_so_inside_a_block() -> None:
    """After the model was split in eval mode, its blocks still drop activations in training mode, and only then."""
    model = Outer(FunctionalDropout()).eval()
    blocks = split(model, (8, 8)).blocks
    block = next(block for block in blocks if "inner" in block.modules)
    maps = torch.rand(4, 3, 8, 8)
    assert torch.equal(block.run(model, maps), block.run(model, maps))
    model.inner.train()
    assert not torch.equal(block.run(model, maps), block.run(model, maps))


class OwnConstants(nn.Module):
    """Adds a tensor that its forward method creates, and has optional arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1)

    def forward(self, images: Tensor, scale: float = 2.0, mask: Tensor | None = None) -> Tensor:
        """Scale, shift and mask."""
        maps = self.layer(images) * scale + torch.tensor([[[1.0]], [[2.0]]])
        if mask is not None:
            maps = maps * mask
        return self.other(maps)


def test_constants_become_buffers_that_follow_the_model_and_are_not_saved() -> None:
    """In float64 the blocks compute in float64, and the state dict has no keys of its own."""
    model = OwnConstants().eval()
    keys = list(model.state_dict())
    blocks = split(model, (4, 4)).blocks
    assert list(model.state_dict()) == keys
    constants = [buffer for name, buffer in model.named_buffers() if name not in keys]
    assert [tuple(one.shape) for one in constants] == [(2, 1, 1)]
    model.double()
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    activations = images
    for block in blocks:
        activations = block.run(model, activations)
    assert activations.dtype == torch.float64
    assert torch.equal(activations, model(images))


def test_optional_arguments_keep_their_defaults() -> None:
    """The blocks take the images alone, with the default scale and without a mask."""
    model = OwnConstants().eval()
    images = torch.rand(1, 3, 4, 4)
    (first, *others) = split(model, (4, 4)).blocks
    activations = first.run(model, images)
    for block in others:
        activations = block.run(model, activations)
    assert torch.equal(activations, model(images))


class SharedParameter(nn.Module):
    """Branches after it has used a parameter that the next module uses too."""

    def __init__(self, weight: nn.Parameter, *, branches: bool) -> None:
        super().__init__()
        self.weight, self.layer, self.branches = weight, nn.Conv2d(3, 3, 1), branches

    def forward(self, images: Tensor) -> Tensor:
        """Scale and convolve."""
        maps = images * self.weight
        return self.layer(maps if self.branches and maps.sum() > 0 else -maps)


def test_a_failed_attempt_leaves_nothing_in_the_graph() -> None:
    """A parameter that was read in the attempt is read again by the next module that shares it."""
    weight = nn.Parameter(torch.rand(()))
    model = nn.Sequential(SharedParameter(weight, branches=True), SharedParameter(weight, branches=False)).eval()
    traced = trace(model)
    assert list(traced.opaque) == ["0"]
    traced.graph.lint()
    assert _calls(model) == ["0", "1.layer"]
    images = torch.rand(2, 3, 4, 4)
    activations = images
    for block in split(model, (4, 4)).blocks:
        activations = block.run(model, activations)
    assert torch.equal(activations, model(images))


class BranchingRoot(nn.Module):
    """Its own forward method branches on values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Convolve bright images only."""
        return self.layer(images) if images.mean() > 0 else images


def test_a_model_whose_own_forward_branches_is_refused() -> None:
    """The message names the class and the reason."""
    expected = r"BranchingRoot cannot be cut into blocks: torch\.fx cannot trace its forward method \(symbolically"
    with pytest.raises(WeightsError, match=expected):
        trace(BranchingRoot())
