"""Backbones cut at their blocks: the same network, whichever border it is cut at."""

import pytest
import torch
import torchvision
from torch import nn

from contract.errors import CheckpointError, WeightsError
from contract.preprocess import PreprocessSpec
from tune.families import family_of
from tune.network import Network, Normalise

BACKBONES = [
    "vgg11",
    "vgg16",
    "vgg13_bn",
    "resnet18",
    "resnet50",
    "squeezenet1_0",
    "squeezenet1_1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "efficientnet_v2_s",
]
SPEC = PreprocessSpec(resize=(64,), crop=(64, 64))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_blocks_and_stock_classifier_are_the_model_at_every_cut(backbone: str) -> None:
    """Trunk, then tail, then torchvision's own classifier give bit for bit what the whole model gives."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(backbone).eval()
    family = family_of(backbone)
    blocks, classifier = family.blocks(model), family.classifier(model)
    pictures = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model(pictures)
        for position in range(len(blocks) + 1):
            trunk = pictures
            for block in blocks[:position]:
                for module in block.modules:
                    trunk = module(trunk)
            kept = trunk.clone()
            tail = trunk
            for stage in (*blocks[position:], classifier):
                for module in stage.modules:
                    tail = module(tail)
            assert torch.equal(tail, expected), f"cut before block {position}"
            if position:
                assert torch.equal(trunk, kept), f"what a cut before block {position} has cached was changed in place"


@pytest.mark.parametrize("backbone", BACKBONES)
def test_blocks_hold_every_parameter_but_the_stock_classifiers(backbone: str) -> None:
    """No parameter is forgotten and none stands in two blocks; names are torchvision's own modules."""
    model = torchvision.models.get_model(backbone)
    family = family_of(backbone)
    inside = [
        id(parameter) for stage in family.blocks(model) for module in stage.modules for parameter in module.parameters()
    ]
    assert len(set(inside)) == len(inside)
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    left_out = [name for key, name in named.items() if key not in set(inside)]
    assert all(name.startswith(family.classifier_prefixes) for name in left_out)
    for stage in family.blocks(model):
        assert model.get_submodule(stage.name) is stage.modules[0]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_networks_state_has_torchvisions_keys(backbone: str) -> None:
    """What is saved loads into torchvision's model, but for the classifier, and back."""
    torch.manual_seed(1)
    network = Network(backbone, torchvision.models.get_model(backbone), SPEC, 5)
    state = network.export_state()
    prefixes = (*family_of(backbone).classifier_prefixes, "unfreeze_head.")
    stock = torchvision.models.get_model(backbone).state_dict()
    assert {key for key in state if not key.startswith(prefixes)} == {
        key for key in stock if not key.startswith(prefixes)
    }
    torch.manual_seed(2)
    other = Network(backbone, torchvision.models.get_model(backbone), SPEC, 5)
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


def test_pictures_are_normalised_as_torchvision_does() -> None:
    """uint8 NHWC comes out as torchvision's to_tensor and normalize give it."""
    spec = PreprocessSpec(resize=(64,), crop=(64, 64), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    expected = torchvision.transforms.functional.normalize(pixels.permute(0, 3, 1, 2) / 255, spec.mean, spec.std)
    torch.testing.assert_close(Normalise(spec)(pixels), expected, atol=1e-5, rtol=1e-5)


def test_train_from_frees_the_tail_alone() -> None:
    """Before the cut: eval mode, no gradients. Behind it: training mode, gradients."""
    network = Network("resnet18", torchvision.models.resnet18(), SPEC, 3)
    network.train_from(network.position("layer3"))
    free = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert free == {
        name for name, _ in network.named_parameters() if name.split(".")[1] in ("layer3", "layer4", "linear")
    }
    norms = {name: module.training for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert norms == {name: name.split(".")[1] in ("layer3", "layer4") for name in norms}


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
