"""A small member of every module of timm: the same network wherever it is cut, trained and frozen block by block."""

import copy
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from bench.families import prepare
from bench.timm_members import MEMBERS, UNTRACEABLE, Member
from unfreeze.contract.errors import WeightsError
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.backbones.source import Block, Structure
from unfreeze.tune.backbones.sources import find_backbone
from unfreeze.tune.backbones.weights import load_pretrained

# In `make test`; the others are exhaustive.
REPRESENTATIVES = (
    "byobnet",
    "coat",
    "convnext",
    "efficientnet",
    "eva",
    "levit",
    "mambaout",
    "maxxvit",
    "mobilenetv3",
    "nfnet",
    "resnet",
    "tiny_vit",
    "vision_transformer",
    "vision_transformer_relpos",
)
TRACEABLE = [
    pytest.param(module, marks=[] if module in REPRESENTATIVES else [pytest.mark.exhaustive])
    for module in MEMBERS
    if module not in UNTRACEABLE
]
_Norms = (nn.BatchNorm1d, nn.BatchNorm2d)


def test_every_module_of_timm_has_a_member() -> None:
    """Each module of this version of timm is represented by a network of its own."""
    assert set(MEMBERS) == set(timm.list_modules())
    for module, member in MEMBERS.items():
        assert timm.models.is_model_in_modules(member.name, [module]), member.name


@pytest.mark.parametrize("module", TRACEABLE)
def test_blocks_are_the_network_at_every_cut(module: str) -> None:
    """Block after block returns exactly what timm's network returns, from activations that nothing has changed.

    At each cut the activations are copied, as a cache would copy them, and blocks work at every batch size.
    """
    member = MEMBERS[module]
    model, structure = _split(module)
    images = torch.rand(5, 3, member.side, member.side)
    with torch.inference_mode():
        for batch in (1, 5):
            activations = images[:batch]
            expected = model(activations)
            for block in structure.blocks:
                cached = activations.clone()
                following = block.run(model, activations)
                assert torch.equal(activations, cached), f"{block.name} changes cached activations"
                assert torch.equal(block.run(model, cached), following)
                assert tuple(following.shape) == (batch, *block.output.shape)
                activations = following
            assert torch.equal(activations, expected)
            assert batch == 1 or expected.std() > 0
    _check_ownership(model, structure, images)


def _split(module: str) -> tuple[nn.Module, Structure]:
    torch.manual_seed(0)
    member = MEMBERS[module]
    model = member.build()
    return model, find_backbone(member.backbone).structure(model, (member.side, member.side))


def _check_ownership(model: nn.Module, structure: Structure, images: Tensor) -> None:
    """Names are unique, and every parameter that the output depends on is in exactly one block."""
    blocks = structure.blocks
    assert structure.classifier is None
    names = [block.name for block in blocks]
    assert len(set(names)) == len(names) <= 40
    inside = [_parameters(model, block) for block in blocks]
    assert all(inside)
    assert sum(map(len, inside)) == len(set().union(*inside))
    left_out = {
        name: one for name, one in model.named_parameters() if id(one) not in set().union(*inside) and one.requires_grad
    }
    if left_out:
        gradients = torch.autograd.grad(model(images[:2]).sum(), list(left_out.values()), allow_unused=True)
        assert [name for name, one in zip(left_out, gradients, strict=True) if one is not None] == []


def _parameters(model: nn.Module, block: Block) -> set[int]:
    named = dict(model.named_parameters())
    called = {id(parameter) for path in block.modules for parameter in model.get_submodule(path).parameters()}
    return called | {id(named[path]) for path in block.tensors if path in named}


def _network(module: str) -> tuple[Network, Tensor]:
    torch.manual_seed(0)
    member = MEMBERS[module]
    spec = PreprocessSpec(resize=(member.side,), crop=(member.side, member.side))
    pixels = torch.randint(0, 256, (2, member.side, member.side, 3), dtype=torch.uint8)
    return Network(member.backbone, member.build(), spec, 3), pixels


@pytest.mark.parametrize("module", TRACEABLE)
def test_selected_blocks_are_trained_and_the_others_stay_frozen(module: str) -> None:
    """Gradients reach each trained block and no frozen one, whose statistics and random layers do not move.

    The last half of the blocks is trained, then the first block alone.
    """
    network, pixels = _network(module)
    prepare(network)
    count = len(network.block_names)
    for trained in (range(count // 2, count), range(1)):
        network.train_only(trained)
        frozen = [index for index in range(count) if index not in trained]
        before = {key: value.clone() for key, value in network.state_dict().items()}
        _backward(network, pixels)
        for index in trained:
            gradients = [one.grad for one in network.block_parameters(index, index + 1)]
            assert any(one is not None and one.abs().sum() > 0 for one in gradients), network.block_names[index]
        assert all(one.grad is None for index in frozen for one in network.block_parameters(index, index + 1))
        own = network.trained_state(trained)
        changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
        assert changed <= own.keys()
        _check_modes(network, trained)
        network.zero_grad()


def _backward(network: Network, pixels: Tensor) -> None:
    nn.init.normal_(network.head.linear.weight)
    features = network.run_blocks(pixels, 0, len(network.block_names))
    network.head(features).sum().backward()


def _check_modes(network: Network, trained: range) -> None:
    """Layers that depend on the mode are in training mode where they are trained, and only there."""
    model = network.model
    paths = {path for index in trained for path in network._blocks[index].modules}
    inside = {id(one) for path in paths for one in model.get_submodule(path).modules()}
    random = (*_Norms, nn.Dropout, nn.Dropout2d, timm.layers.DropPath)
    layers = {name: one for name, one in model.named_modules() if isinstance(one, random)}
    assert {name for name, one in layers.items() if one.training} == {
        name for name, one in layers.items() if id(one) in inside
    }


@pytest.mark.parametrize("module", TRACEABLE)
def test_a_networks_weights_have_timms_keys_and_copies_work(module: str) -> None:
    """Keys and shapes are those of timm's network with its classifier, and a deep copy computes the same."""
    network, pixels = _network(module)
    member = MEMBERS[module]
    with torch.device("meta"):
        stock = timm.create_model(member.name, **member.options).state_dict()
    own = {key for key in network.export_state() if not key.startswith("unfreeze_head.")}
    assert own <= stock.keys()
    prefixes = find_backbone(member.backbone).classifier_prefixes(network.model)
    assert [key for key in stock.keys() - own if not key.startswith(prefixes)] == []
    with torch.inference_mode():
        torch.testing.assert_close(copy.deepcopy(network).eval()(pixels), network.eval()(pixels), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("module", TRACEABLE)
def test_the_files_that_timm_publishes_load(module: str, tmp_path: Path) -> None:
    """A state dict with timm's keys and its classifier is read as timm reads it, with nothing missing or left over."""
    member = MEMBERS[module]
    if member.options:
        pytest.skip("its full depth takes too long")
    torch.manual_seed(1)
    stock = _stock(member).state_dict()
    torch.save(stock, tmp_path / "weights.pth")
    pretrained = load_pretrained(member.backbone, str(tmp_path / "weights.pth"), image_size=member.side)
    own = pretrained.model.state_dict()
    assert all(torch.equal(value, stock[key]) for key, value in own.items())
    assert pretrained.note == ""


def _stock(member: Member) -> nn.Module:
    """Build timm's network with its classifier, for the member's image size if it depends on the size."""
    model: nn.Module
    try:
        model = timm.create_model(member.name, img_size=member.side)
    except TypeError:
        model = timm.create_model(member.name)
    return model


@pytest.mark.parametrize("module", UNTRACEABLE)
def test_what_cannot_be_traced_is_refused_with_the_reason(module: str) -> None:
    """The message names the class and what torch.fx says."""
    with pytest.raises(WeightsError, match=r"cannot be cut into blocks: torch\.fx cannot trace its forward method \("):
        _split(module)
