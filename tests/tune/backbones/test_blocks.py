"""The general rule for blocks: cuts at the ends of the top modules, as many levels as there are."""

import pytest
import torch
from torch import Tensor, nn

from unfreeze.tune.backbones.blocks import split
from unfreeze.tune.backbones.source import Structure

SIZE = (16, 16)


def _layer(width: int, given: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(given, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())


class Residual(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Add the convolutions' result."""
        return maps + self.two(self.one(maps))


class Staged(nn.Module):
    """A stem, stages of residual blocks, a norm, pooling and a classifier."""

    def __init__(self, stages: int, depth: int) -> None:
        super().__init__()
        self.stem = _layer(4, 3)
        self.stages = nn.ModuleList(nn.Sequential(*(Residual() for _ in range(depth))) for _ in range(stages))
        self.norm, self.pool, self.fc = nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Classify."""
        maps = self.stem(images)
        for stage in self.stages:
            maps = stage(maps)
        return self.fc(self.pool(self.norm(maps)).flatten(1))


def _names(structure: Structure) -> list[str]:
    return [block.name for block in structure.blocks]


def _check_equal(model: nn.Module, structure: Structure) -> None:
    images = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        activations = images
        for block in (*structure.blocks, *([structure.classifier] if structure.classifier else [])):
            activations = block.run(model, activations)
        assert torch.equal(activations, model(images))


@pytest.mark.parametrize(
    ("stages", "depth", "expected"),
    [
        (6, 1, ["stem", *(f"stages.{one}" for one in range(6))]),
        (2, 3, ["stem", *(f"stages.{stage}.{block}" for stage in range(2) for block in range(3))]),
    ],
)
def test_blocks_are_the_modules_of_the_top_levels(stages: int, depth: int, expected: list[str]) -> None:
    """Six stages of one residual block are six blocks; of two stages with three, each residual block is one.

    Normalization and pooling without matrices belong to the block before them, and a residual is never cut.
    """
    model = Staged(stages, depth).eval()
    structure = split(model, SIZE, classifier_prefixes=("fc.",))
    assert _names(structure) == expected
    assert "norm" in structure.blocks[-1].modules
    assert structure.classifier is not None
    assert structure.classifier.modules == ("pool", "fc")
    _check_equal(model, structure)


def test_there_are_at_most_forty_blocks() -> None:
    """A network of a hundred layers is cut after every third; every parameter stays in one of the blocks."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *(nn.Conv2d(4, 4, 1) for _ in range(99))).eval()
    structure = split(model, SIZE)
    assert len(structure.blocks) == 34
    assert [path for block in structure.blocks for path in block.modules] == [str(index) for index in range(100)]
    _check_equal(model, structure)


def test_without_a_classifier_the_blocks_end_with_the_model() -> None:
    """Pooling and whatever follows belong to the last block, whose output are features."""
    model = Staged(2, 3).eval()
    structure = split(model, SIZE)
    assert structure.classifier is None
    assert structure.blocks[-1].output.shape == (3,)
    assert structure.blocks[-1].output.spatial_axes == ()
    _check_equal(model, structure)


class Shared(nn.Module):
    """Calls one convolution before each of two others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), Residual(), Residual()

    def forward(self, images: Tensor) -> Tensor:
        """Apply them."""
        return self.b(self.shared(self.a(self.shared(self.stem(images)))))


def test_a_module_that_is_called_twice_belongs_to_the_first_block() -> None:
    """It starts no second block: names are unique, and every block has weights of its own."""
    model = Shared().eval()
    structure = split(model, SIZE)
    assert _names(structure) == ["stem", "shared", "a", "b"]
    assert [block.modules for block in structure.blocks] == [
        ("stem",),
        ("shared",),
        ("a.one", "a.two"),
        ("b.one", "b.two"),
    ]
    _check_equal(model, structure)


class Embed(nn.Module):
    """A patch embedding whose maps are in the layout that is asked for."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layer, self.layout = nn.Conv2d(3, 6, 2, 2), layout

    def forward(self, images: Tensor) -> Tensor:
        """Embed and arrange."""
        maps = self.layer(images)
        if self.layout == "channels first":
            return maps
        maps = maps.permute(0, 2, 3, 1)
        return maps.flatten(1, 2) if self.layout == "tokens" else maps


class Mix(nn.Module):
    """Mix the last axis and average."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 5)

    def forward(self, activations: Tensor) -> Tensor:
        """Mix."""
        return self.layer(activations).flatten(1, -2).mean(1)


@pytest.mark.parametrize(
    ("layout", "shape", "axes"),
    [
        ("channels first", (6, 8, 4), (2, 3)),
        ("channels last", (8, 4, 6), (1, 2)),
        ("tokens", (32, 6), (1,)),
    ],
)
def test_the_axes_to_pool_over_are_those_of_the_image(
    layout: str, shape: tuple[int, ...], axes: tuple[int, ...]
) -> None:
    """Of maps, the two sides in the image's proportions, wherever the features are; of tokens, the tokens."""
    blocks = split(nn.Sequential(Embed(layout), Mix(shape[-1])).eval(), (16, 8)).blocks
    assert [block.name for block in blocks] == ["0", "1"]
    assert blocks[0].output.shape == shape
    assert blocks[0].output.spatial_axes == axes
