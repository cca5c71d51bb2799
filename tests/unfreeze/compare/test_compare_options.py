"""Options of a comparison, and the presets."""

import pytest
import torchvision

from unfreeze.compare.options import CompareOptions
from unfreeze.compare.presets import PRESETS
from unfreeze.contract.errors import OptionsError
from unfreeze.tune.backbones.sources import find_backbone

LIMITS = {"edge": (6.0, 0.41), "small": (26.0, 4.1), "server": (90.0, 18.0)}  # million parameters, billion operations


def test_backbones_with_and_without_weights() -> None:
    """Names may contain a slash or a colon; the label has the weights where a backbone is named several times."""
    choices = CompareOptions(
        backbones="resnet18, timm/vit=a/b.pth,hf-hub:org/net,own:make=none,resnet18=builtin"
    ).choices
    assert [(one.backbone, one.weights, one.label) for one in choices] == [
        ("resnet18", "default", "resnet18=default"),
        ("timm/vit", "a/b.pth", "timm/vit"),
        ("hf-hub:org/net", "default", "hf-hub:org/net"),
        ("own:make", "none", "own:make"),
        ("resnet18", "builtin", "resnet18=builtin"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbones": "resnet18,,vgg11"}, "--backbones must be edge, small, server, or a comma-separated list"),
        ({"backbones": "resnet18="}, "got 'resnet18='"),
        ({"backbones": "vgg11,resnet18,vgg11"}, "--backbones names vgg11=default twice"),
        ({"budget_ms": 0.0}, "--budget-ms must be between"),
        ({"images": 2}, "--images must be between"),
    ],
)
def test_invalid_options_are_refused(options: dict, message: str) -> None:
    """With the flag and what was expected."""
    with pytest.raises(OptionsError, match=message):
        CompareOptions(**options)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_exist_and_are_of_the_size_that_they_state(name: str) -> None:
    """Torchvision publishes weights of this size; one backbone needs no download; timm has the others."""
    most_parameters, most_operations = LIMITS[name]
    choices = CompareOptions(backbones=name).choices
    assert "builtin" in [one.weights for one in choices]
    for choice in choices:
        backbone = find_backbone(choice.backbone)
        if backbone.source == "torchvision":
            meta = torchvision.models.get_model_weights(backbone.name).DEFAULT.meta
            assert meta["num_params"] / 1e6 < most_parameters
            assert meta["_ops"] < most_operations
        else:
            timm = pytest.importorskip("timm")
            assert timm.is_model(backbone.name)
