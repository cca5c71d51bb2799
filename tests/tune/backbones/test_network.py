"""Backbones cut at their blocks: the same network, whichever border it is cut at."""

import pytest
import torch
import torchvision
from torch import nn

from unfreeze.contract.errors import CheckpointError, WeightsError
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.tune.backbones.families import Family, Stage, build, family_of
from unfreeze.tune.backbones.network import Network, Normalize

EVERY = torchvision.models.list_models(module=torchvision.models)
BACKBONES = [
    *["alexnet", "vgg11", "vgg13_bn", "resnet18", "resnext50_32x4d", "regnet_y_400mf", "squeezenet1_0", "mobilenet_v2"],
    *["mobilenet_v3_small", "efficientnet_b0", "efficientnet_v2_s", "convnext_tiny", "densenet121", "googlenet"],
    *["shufflenet_v2_x0_5", "mnasnet0_5", "swin_t", "swin_v2_t"],
]
SPEC = PreprocessSpec(resize=(64,), crop=(64, 64))
SIZES = {"inception": 96, "maxvit": 224, "vit_h_14": 56}  # what does not take images of 64 pixels


def _model(backbone: str) -> tuple[nn.Module, torch.Tensor]:
    """A model with random weights in eval mode, and two small images for it."""
    torch.manual_seed(0)
    size = next((size for prefix, size in SIZES.items() if backbone.startswith(prefix)), 64)
    options = {"image_size": size} if backbone.startswith("vit") else {}
    return build(backbone, **options).eval(), torch.rand(2, 3, size, size)


def _apply(stage: Stage, activations: torch.Tensor) -> torch.Tensor:
    for module in stage.modules:
        activations = module(activations)
    return activations


@pytest.mark.parametrize("backbone", EVERY)
def test_blocks_and_stock_classifier_are_the_model_at_every_cut(backbone: str) -> None:
    """All of torchvision: block after block, then its own classifier, give bit for bit what the model gives.

    At each border the activations are put aside, as a cache would, and the next block runs on a copy and on what was
    put aside: both give the same, and what was put aside is not changed by what comes after it. So tail(trunk(x)) is
    the model's answer at every cut.
    """
    model, images = _model(backbone)
    family = family_of(backbone)
    for parameter in family.classifier(model).modules[-1].parameters():
        nn.init.normal_(parameter, std=0.1)  # ViT's are zero, and so would all answers be
    with torch.inference_mode():
        expected, border = model(images), images
        for position, stage in enumerate((*family.blocks(model), family.classifier(model))):
            kept = border.clone()
            following = _apply(stage, border)
            assert position == 0 or torch.equal(border, kept), f"{stage.name} changes in place what a cut has cached"
            assert torch.equal(_apply(stage, kept), following)
            border = following
        assert expected.std() > 0
        assert torch.equal(border, expected)
    _hold_every_parameter(model, family)


def _hold_every_parameter(model: nn.Module, family: Family) -> None:
    """No parameter is forgotten but the stock classifier's, none stands in two blocks, and names are torchvision's."""
    blocks = family.blocks(model)
    inside = [{id(parameter) for module in stage.modules for parameter in module.parameters()} for stage in blocks]
    assert sum(map(len, inside)) == len(set().union(*inside))
    left_out = [name for name, parameter in model.named_parameters() if id(parameter) not in set().union(*inside)]
    assert left_out
    assert all(name.startswith(family.classifier_prefixes) for name in left_out)
    assert len({stage.name for stage in blocks}) == len(blocks) > 3
    for stage, own in zip(blocks, inside, strict=True):
        assert {id(parameter) for parameter in model.get_submodule(stage.name).parameters()} <= own


@pytest.mark.parametrize("backbone", ["squeezenet1_1", "mobilenet_v3_small", "resnet18", "densenet121"])
def test_trunk_and_tail_are_the_network(backbone: str) -> None:
    """The same with our own network and head, cut at each border in turn."""
    torch.manual_seed(0)
    network = Network(backbone, build(backbone), SPEC, 4).eval()
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = network(pixels)
        for position in range(len(network.block_names) + 1):
            trunk = network.run_blocks(pixels, 0, position)
            assert torch.equal(network.run_tail(trunk, position), expected)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_networks_state_has_torchvisions_keys(backbone: str) -> None:
    """What is saved loads into torchvision's model, but for the classifier, and back."""
    torch.manual_seed(1)
    network = Network(backbone, build(backbone), SPEC, 5)
    state = network.export_state()
    prefixes = (*family_of(backbone).classifier_prefixes, "unfreeze_head.")
    stock = build(backbone).state_dict()
    assert {key for key in state if not key.startswith(prefixes)} == {
        key for key in stock if not key.startswith(prefixes)
    }
    torch.manual_seed(2)
    other = Network(backbone, build(backbone), SPEC, 5)
    other.import_state(state)
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(network.eval()(pixels), other.eval()(pixels))


def test_vggs_three_large_layers_are_replaced() -> None:
    """Of VGG16's 138 million parameters, the 124 million of its fully connected layers are gone."""
    network = Network("vgg16", torchvision.models.get_model("vgg16"), SPEC, 10)
    assert sum(parameter.numel() for parameter in network.parameters()) == 14_714_688 + 512 * 10 + 10


def test_squeezenets_dead_classifier_is_replaced() -> None:
    """Squeezenet's stock classifier cannot give a negative logit; the new head can."""
    torch.manual_seed(0)
    stock = torchvision.models.squeezenet1_0().eval()
    network = Network("squeezenet1_0", torchvision.models.squeezenet1_0(), SPEC, 1000).eval()
    with torch.inference_mode():
        assert stock(torch.rand(2, 3, 64, 64)).min() >= 0
        assert network(torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)).min() < 0


def test_images_are_normalized_as_torchvision_does() -> None:
    """uint8 NHWC comes out as torchvision's to_tensor and normalize give it."""
    spec = PreprocessSpec(resize=(64,), crop=(64, 64), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    expected = torchvision.transforms.functional.normalize(pixels.permute(0, 3, 1, 2) / 255, spec.mean, spec.std)
    torch.testing.assert_close(Normalize(spec)(pixels), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("trained", [("layer3", "layer4"), ("conv1",), ("layer2",), ()])
def test_some_blocks_and_the_head_alone_learn(trained: tuple[str, ...]) -> None:
    """The blocks that are named and the head: training mode, gradients. All others: eval mode, no gradients."""
    network = Network("resnet18", torchvision.models.resnet18(), SPEC, 3)
    network.train_only(range(5))
    network.train_only([network.position(name) for name in trained])
    # The stem's block has its norm beside its convolution.
    learning = {*trained, "linear", *(("bn1",) if "conv1" in trained else ())}
    free = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert free == {name for name, _ in network.named_parameters() if name.split(".")[1] in learning}
    norms = {name: module.training for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert norms == {name: name.split(".")[1] in learning for name in norms}


@pytest.mark.parametrize(("backbone", "blocks"), [("resnet18", [0]), ("mobilenet_v3_small", [11, 12]), ("vgg11", [])])
def test_the_trained_state_is_that_of_the_blocks_and_the_head(backbone: str, blocks: list[int]) -> None:
    """Weights and statistics of the blocks and the head, under the network's keys: enough to bring them back."""
    torch.manual_seed(0)
    network, other = (Network(backbone, build(backbone), SPEC, 3) for _ in range(2))
    state = network.trained_state(blocks)
    modules = [module for index in blocks for module in network._blocks[index].modules]
    assert len(state) == 4 + sum(len(module.state_dict()) for module in modules)
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in state.items())
    before = {key: value.clone() for key, value in other.state_dict().items()}
    assert other.load_state_dict(state, strict=False).unexpected_keys == []
    for key, value in other.state_dict().items():
        assert torch.equal(value, state[key] if key in state else before[key])
    assert not any(value.requires_grad for value in state.values())


def test_cuts_are_found_by_name() -> None:
    """The name "all" is before everything, "head" behind everything, and an unknown name is refused with the list."""
    network = Network("resnet18", torchvision.models.resnet18(), SPEC, 3)
    assert [network.position(cut) for cut in ("all", "conv1", "layer2", "layer4", "head")] == [0, 0, 2, 4, 5]
    with pytest.raises(CheckpointError, match=r"no block 'layer9'; cut at head, all or conv1, layer1, layer2"):
        network.position("layer9")


def test_unknown_families_are_refused() -> None:
    """The message lists what there is."""
    with pytest.raises(WeightsError, match=r"'yolo' is no backbone that can be split.*vgg\*, resnet\*"):
        family_of("yolo")
