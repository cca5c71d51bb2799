"""Backbones split into blocks: the same network wherever it is cut."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from support.families import SMALL_MODELS, builder_of, image_size, small_model
from torch import nn

from unfreeze.contract.errors import CheckpointError, WeightsError
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.tune.backbones.families import FAMILIES, family_of
from unfreeze.tune.backbones.network import Network, Normalize
from unfreeze.tune.backbones.source import Block, Structure
from unfreeze.tune.backbones.sources import find_backbone

ALL_BUILDERS = torchvision.models.list_models(module=torchvision.models)
SPEC = PreprocessSpec(resize=(64,), crop=(64, 64))
SIZES = {"inception": 96, "maxvit": 224, "vit_h_14": 56}  # builders that do not accept images of 64 by 64
# Of each builder's blocks: the number of parameters as tensors and as values, without vision transformers' position
# embeddings, whose number depends on the image size. Runs name their cuts after these blocks.
BLOCKS = json.loads((Path(__file__).parent / "torchvision_blocks.json").read_text())
ONE_PER_FAMILY = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "vgg11",
    "vit_b_32",
)


def test_every_family_has_a_small_member() -> None:
    """The tests of families skip none of them."""
    assert {id(family_of(builder_of(key))) for key in SMALL_MODELS} == {id(family) for family in FAMILIES.values()}


@pytest.mark.parametrize("key", SMALL_MODELS)
def test_blocks_and_stock_classifier_are_the_model_at_every_cut(key: str) -> None:
    """Block after block, then the stock classifier, return exactly what the model returns.

    At each cut the activations are copied, as a cache would copy them: the next block returns the same for the copy and
    does not change it in place. So tail(trunk(x)) equals the model at every cut.
    """
    size = image_size(key)
    _check_blocks(small_model(key), builder_of(key), torch.rand(2, 3, size, size))


@pytest.mark.exhaustive
@pytest.mark.parametrize("backbone", ALL_BUILDERS)
def test_every_builder_splits_into_blocks(backbone: str) -> None:
    """The same for all of torchvision's classifiers at their full depth and width."""
    torch.manual_seed(0)
    model, size = _built(backbone)
    _check_blocks(model, backbone, torch.rand(2, 3, size, size))
    found = _sizes(model, find_backbone(backbone).structure(model, (size, size)))
    assert list(found.items()) == list(BLOCKS[backbone].items())


@pytest.mark.parametrize("backbone", ONE_PER_FAMILY)
def test_torchvisions_blocks_are_always_the_same(backbone: str) -> None:
    """Their names, order and parameters, on which the cuts in older runs and in scripts depend."""
    model, size = _built(backbone)
    found = _sizes(model, find_backbone(backbone).structure(model, (size, size)))
    assert list(found.items()) == list(BLOCKS[backbone].items())


def test_the_blocks_of_every_builder_are_recorded() -> None:
    """No builder of this version of torchvision is missing."""
    assert set(BLOCKS) == set(ALL_BUILDERS)


def _built(backbone: str) -> tuple[nn.Module, int]:
    size = next((size for prefix, size in SIZES.items() if backbone.startswith(prefix)), 64)
    return find_backbone(backbone).build((size, size)).eval(), size


def _sizes(model: nn.Module, structure: Structure) -> dict[str, list[int]]:
    """Count each block's parameters, as tensors and as values."""
    sizes = {}
    for block in structure.blocks:
        inside = _parameters(model, block)
        values = [one for name, one in model.named_parameters() if id(one) in inside and "pos_embedding" not in name]
        sizes[block.name] = [len(values), sum(one.numel() for one in values)]
    return sizes


def _check_blocks(model: nn.Module, backbone: str, images: torch.Tensor) -> None:
    structure = find_backbone(backbone).structure(model, (images.shape[2], images.shape[3]))
    assert structure.classifier is not None
    for parameter in model.get_submodule(structure.classifier.modules[-1]).parameters():
        nn.init.normal_(parameter, std=0.1)  # ViT's are zero, and so would be all logits
    with torch.inference_mode():
        expected, activations = model(images), images
        for position, block in enumerate((*structure.blocks, structure.classifier)):
            cached = activations.clone()
            following = block.run(model, activations)
            assert position == 0 or torch.equal(activations, cached), f"{block.name} changes cached activations"
            assert torch.equal(block.run(model, cached), following)
            activations = following
            assert tuple(activations.shape[1:]) == block.output.shape
        assert expected.std() > 0
        assert torch.equal(activations, expected)
    _check_parameters(model, structure, find_backbone(backbone).classifier_prefixes(model))


def _check_parameters(model: nn.Module, structure: Structure, classifier_prefixes: tuple[str, ...]) -> None:
    """Every parameter but the stock classifier's is in exactly one block, and block names are torchvision's."""
    blocks = structure.blocks
    inside = [_parameters(model, block) for block in blocks]
    assert sum(map(len, inside)) == len(set().union(*inside))
    left_out = [name for name, parameter in model.named_parameters() if id(parameter) not in set().union(*inside)]
    assert left_out
    assert all(name.startswith(classifier_prefixes) for name in left_out)
    assert len({block.name for block in blocks}) == len(blocks) > 3
    for block, own in zip(blocks, inside, strict=True):
        assert {id(parameter) for parameter in model.get_submodule(block.name).parameters()} <= own


def _parameters(model: nn.Module, block: Block) -> set[int]:
    named = dict(model.named_parameters())
    called = {id(parameter) for path in block.modules for parameter in model.get_submodule(path).parameters()}
    return called | {id(named[path]) for path in block.tensors if path in named}


@pytest.mark.parametrize("key", ["squeezenet1_1", "efficientnet_b0", "resnet18", "densenet121"])
def test_trunk_and_tail_are_the_network(key: str) -> None:
    """The same with our own normalization and head, cut between each two blocks."""
    network = Network(builder_of(key), small_model(key), SPEC, 4).eval()
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = network(pixels)
        for position in range(len(network.block_names) + 1):
            trunk = network.run_blocks(pixels, 0, position)
            assert torch.equal(network.run_tail(trunk, position), expected)


@pytest.mark.parametrize("key", [key for key in SMALL_MODELS if image_size(key) == 64])
def test_a_networks_state_has_torchvisions_keys(key: str) -> None:
    """A saved state has torchvision's keys except for the classifier, and loads into another network."""
    stock = small_model(key)
    network, other = (Network(builder_of(key), SMALL_MODELS[key](), SPEC, 5) for _ in range(2))
    state = network.export_state()
    prefixes = (*find_backbone(builder_of(key)).classifier_prefixes(stock), "unfreeze_head.")
    assert {name for name in state if not name.startswith(prefixes)} == {
        name for name in stock.state_dict() if not name.startswith(prefixes)
    }
    other.import_state(state)
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(network.eval()(pixels), other.eval()(pixels))


def test_vggs_fully_connected_layers_are_replaced() -> None:
    """Of VGG16's 138 million parameters, the 124 million of its fully connected layers are removed."""
    network = Network("vgg16", torchvision.models.vgg16(init_weights=False), SPEC, 10)
    assert sum(parameter.numel() for parameter in network.parameters()) == 14_714_688 + 512 * 10 + 10


def test_squeezenets_dead_classifier_is_replaced() -> None:
    """SqueezeNet's stock classifier ends in a ReLU and cannot return negative logits; the new head can."""
    torch.manual_seed(0)
    stock = torchvision.models.squeezenet1_0().eval()
    network = Network("squeezenet1_0", torchvision.models.squeezenet1_0(), SPEC, 1000).eval()
    with torch.inference_mode():
        assert stock(torch.rand(2, 3, 64, 64)).min() >= 0
        assert network(torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)).min() < 0


def test_images_are_normalized_as_by_torchvision() -> None:
    """The result for uint8 NHWC equals that of torchvision's to_tensor and normalize."""
    spec = PreprocessSpec(resize=(64,), crop=(64, 64), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    expected = torchvision.transforms.functional.normalize(pixels.permute(0, 3, 1, 2) / 255, spec.mean, spec.std)
    torch.testing.assert_close(Normalize(spec)(pixels), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("trained", [("layer3", "layer4"), ("conv1",), ("layer2",), ()])
def test_only_the_selected_blocks_and_the_head_are_trained(trained: tuple[str, ...]) -> None:
    """They are in training mode with gradients; all others are in eval mode without."""
    network = Network("resnet18", small_model("resnet18"), SPEC, 3)
    network.train_only(range(5))
    network.train_only([network.position(name) for name in trained])
    # The first block consists of several modules of the model.
    selected = {*trained, "linear", *(("bn1",) if "conv1" in trained else ())}
    with_gradients = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert with_gradients == {name for name, _ in network.named_parameters() if name.split(".")[1] in selected}
    norms = {name: module.training for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert norms == {name: name.split(".")[1] in selected for name in norms}


@pytest.mark.parametrize(("key", "blocks"), [("resnet18", [0]), ("mobilenet_v3_small", [11, 12]), ("vgg11", [])])
def test_the_trained_state_is_that_of_the_blocks_and_the_head(key: str, blocks: list[int]) -> None:
    """Weights and statistics of the blocks and the head, under the network's keys: enough to restore them."""
    network, other = (Network(builder_of(key), SMALL_MODELS[key](), SPEC, 3) for _ in range(2))
    state = network.trained_state(blocks)
    paths = [path for index in blocks for path in network._blocks[index].modules]
    modules = [network.model.get_submodule(path) for path in paths]
    assert len(state) == 4 + sum(len(module.state_dict()) for module in modules)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in state.items())
    before = {name: value.clone() for name, value in other.state_dict().items()}
    assert other.load_state_dict(state, strict=False).unexpected_keys == []
    for name, value in other.state_dict().items():
        assert torch.equal(value, state[name] if name in state else before[name])
    assert not any(value.requires_grad for value in state.values())


def test_cuts_are_found_by_name() -> None:
    """The name "all" is before the first block, "head" after the last; the error for another name lists the blocks."""
    network = Network("resnet18", small_model("resnet18"), SPEC, 3)
    assert [network.position(cut) for cut in ("all", "conv1", "layer2", "layer4", "head")] == [0, 0, 2, 4, 5]
    expected = r"no block 'layer9'; --cut must be head, all or one of conv1, layer1, layer2"
    with pytest.raises(CheckpointError, match=expected):
        network.position("layer9")


def test_rejects_unknown_families() -> None:
    """The message lists the supported ones."""
    with pytest.raises(WeightsError, match=r"'yolo' is not supported as a backbone; supported: .*vgg\*, resnet\*"):
        family_of("yolo")
