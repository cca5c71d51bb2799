"""What the graphs of torchvision's classifiers do not tell: where their families start blocks, and their options."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from unfreeze.contract.errors import WeightsError


@dataclass(frozen=True, kw_only=True)
class Family:
    """The models of one family.

    Args:
        starts: returns the paths of the modules at which a model's blocks start, in order.
        classifier: names of the modules of the stock classifier and of auxiliary classifiers.
        options: returns the options of torchvision's builder for an image size.
        renamed_keys: regular expressions, and their replacements, that turn the keys of torchvision's published files
            into those of its models.
    """

    starts: Callable[[Any], Iterable[str]]
    classifier: tuple[str, ...]
    options: Callable[[tuple[int, int]], dict[str, object]] = lambda _: {}
    renamed_keys: tuple[tuple[str, str], ...] = ()


def family_of(name: str) -> Family:
    """Find the family of a torchvision model.

    Args:
        name: the name of torchvision's builder, like "resnet18".

    Raises:
        WeightsError: models of this name are not classifiers of a known family; the message lists the families.
    """
    for prefix, family in FAMILIES.items():
        if name.startswith(prefix):
            return family
    supported = ", ".join(f"{prefix}*" for prefix in FAMILIES)
    raise WeightsError(f"torchvision model {name!r} is not supported as a backbone; supported: {supported}")


def _modules(*names: str) -> Callable[[Any], Iterable[str]]:
    """Start blocks at some modules, and at each child of a module that is written with a star: "features.*"."""

    def find(model: Any) -> Iterable[str]:
        for name in names:
            parent, star, _ = name.rpartition(".*")
            yield from _weighted_children(model, parent) if star else (name,)

    return find


def _weighted_children(model: Any, parent: str) -> Iterable[str]:
    for name, child in model.get_submodule(parent).named_children():
        if any(True for _ in child.parameters()):
            yield f"{parent}.{name}"


def _after_pools(model: Any) -> Iterable[str]:
    """Start a block after every max pooling."""
    yield "features.0"
    children = list(model.features)
    for index, module in enumerate(children[:-1]):
        if isinstance(module, nn.MaxPool2d):
            yield f"features.{index + 1}"


def _mnasnet_stacks(model: Any) -> Iterable[str]:
    """Start a block at each stack; the single layers form the blocks before and after the stacks."""
    stacks = [index for index, layer in enumerate(model.layers) if isinstance(layer, nn.Sequential)]
    return (f"layers.{index}" for index in (0, 3, *stacks, stacks[-1] + 1))


def _stages(model: Any) -> Iterable[str]:
    """Start a block at each stage of a Swin transformer, and at the patch merging before it."""
    return (f"features.{index}" for index in range(0, len(model.features), 2))


def _without_auxiliaries(_: tuple[int, int]) -> dict[str, object]:
    return {"aux_logits": False, "transform_input": True, "init_weights": True}


def _square(image_size: tuple[int, int]) -> dict[str, object]:
    if image_size[0] != image_size[1]:
        raise WeightsError(f"torchvision's vision transformers take square images, got {image_size}")
    return {"image_size": image_size[0]}


_RESNET = Family(starts=_modules("conv1", "layer1", "layer2", "layer3", "layer4"), classifier=("fc",))
_FEATURES = Family(starts=_modules("features.*"), classifier=("classifier",))

# A model belongs to the first family whose key its name starts with.
FAMILIES = {
    "alexnet": _FEATURES,
    "vgg": Family(starts=_after_pools, classifier=("classifier",)),
    "resnet": _RESNET,
    "resnext": _RESNET,
    "wide_resnet": _RESNET,
    "regnet": Family(starts=_modules("stem", "trunk_output.*"), classifier=("fc",)),
    "squeezenet": _FEATURES,
    "mobilenet_v2": _FEATURES,
    "mobilenet_v3": _FEATURES,
    "efficientnet": _FEATURES,
    "convnext": _FEATURES,
    "densenet": Family(
        starts=_modules("features.conv0", "features.denseblock1", *(f"features.transition{one}" for one in (1, 2, 3))),
        classifier=("classifier",),
        renamed_keys=((r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2."),),
    ),
    "shufflenet": Family(starts=_modules("conv1", "stage2", "stage3", "stage4", "conv5"), classifier=("fc",)),
    "mnasnet": Family(starts=_mnasnet_stacks, classifier=("classifier",)),
    "googlenet": Family(
        starts=_modules(
            "conv1", "conv2", *(f"inception{one}" for one in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"))
        ),
        classifier=("fc", "aux1", "aux2"),
        options=_without_auxiliaries,
    ),
    "inception": Family(
        starts=_modules(
            "Conv2d_1a_3x3",
            "Conv2d_3b_1x1",
            *(f"Mixed_{one}" for one in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")),
        ),
        classifier=("fc", "AuxLogits"),
        options=_without_auxiliaries,
    ),
    "swin": Family(starts=_stages, classifier=("head",)),
    "maxvit": Family(starts=_modules("stem", "blocks.*"), classifier=("classifier",)),
    "vit": Family(
        starts=_modules("conv_proj", "encoder.layers.*"),
        classifier=("heads",),
        options=_square,
        renamed_keys=((r"\.mlp\.linear_1\.", ".mlp.0."), (r"\.mlp\.linear_2\.", ".mlp.3.")),
    ),
}
