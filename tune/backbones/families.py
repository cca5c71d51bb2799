"""The stages of torchvision's classifiers: an explicit list per family, in order from the input."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torchvision
from torch import nn

from unfreeze.contract.errors import WeightsError
from unfreeze.tune.backbones.adapters import ClassToken, InputTransform, PatchTokens, SpatialMean


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a network.

    Args:
        name: torchvision's own name of its (first) module.
        modules: what it applies, one after the other.
    """

    name: str
    modules: tuple[nn.Module, ...]


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the networks of one kind are taken apart.

    Args:
        blocks: gives a model's blocks, without the stock classifier.
        classifier: gives the stock classifier, pooling included, as a stage.
        classifier_prefixes: how the keys begin that the stock classifier, and classifiers for training, have in the
            state dict.
        options: gives what torchvision's builder must be told for a backbone.
        width_axis: which axis of activations at a border is the image's width; None for tokens.
    """

    blocks: Callable[[Any], tuple[Stage, ...]]
    classifier: Callable[[Any], Stage]
    classifier_prefixes: tuple[str, ...]
    options: Callable[[str], dict[str, object]]
    width_axis: int | None


def family_of(backbone: str) -> Family:
    """Find the family of a torchvision builder.

    Args:
        backbone: the builder's name, like "resnet18".

    Raises:
        WeightsError: it is not one that can be split; the message lists the families.
    """
    for prefix, family in _FAMILIES.items():
        if backbone.startswith(prefix):
            return family
    known = ", ".join(f"{prefix}*" for prefix in _FAMILIES)
    raise WeightsError(f"{backbone!r} is no backbone that can be split into blocks; there are: {known}")


def build(backbone: str, **options: object) -> nn.Module:
    """Build torchvision's model with random weights, as its pretrained weights want it built.

    Args:
        backbone: torchvision's name of it.
        options: of torchvision's builder, besides.

    Raises:
        WeightsError: there is no such model; the message lists what is close.
    """
    family = family_of(backbone)
    names = torchvision.models.list_models(module=torchvision.models)
    if backbone not in names:
        close = [name for name in names if name[:5] == backbone[:5]]
        raise WeightsError(f"torchvision has no model {backbone!r}; it has {', '.join(close) or 'none like it'}")
    return torchvision.models.get_model(backbone, weights=None, **family.options(backbone) | options)


def _named(model: Any, *groups: str) -> tuple[Stage, ...]:
    """Make a block of each group of modules, by their names in the model, separated by spaces."""
    modules = [tuple(model.get_submodule(name) for name in group.split()) for group in groups]
    return tuple(Stage(name=group.split()[0], modules=own) for group, own in zip(groups, modules, strict=True))


def _resnet_blocks(model: Any) -> tuple[Stage, ...]:
    return _named(model, "conv1 bn1 relu maxpool", "layer1", "layer2", "layer3", "layer4")


def _regnet_blocks(model: Any) -> tuple[Stage, ...]:
    return _named(model, "stem", *(f"trunk_output.{name}" for name, _ in model.trunk_output.named_children()))


def _maxvit_blocks(model: Any) -> tuple[Stage, ...]:
    return _named(model, "stem", *(f"blocks.{index}" for index in range(len(model.blocks))))


def _shufflenet_blocks(model: Any) -> tuple[Stage, ...]:
    return _named(model, "conv1 maxpool", "stage2", "stage3", "stage4", "conv5")


def _mnasnet_blocks(model: Any) -> tuple[Stage, ...]:
    """Make a block of each stack; single layers form the blocks before and behind the stacks."""
    stacks = [f"layers.{index}" for index, layer in enumerate(model.layers) if isinstance(layer, nn.Sequential)]
    stem, separable, top = (
        " ".join(f"layers.{index}" for index in part) for part in (range(3), range(3, 8), range(14, 17))
    )
    return _named(model, stem, separable, *stacks, top)


def _densenet_blocks(model: Any) -> tuple[Stage, ...]:
    """Make a block of each dense block with the transition before it; the last activation is a function there."""
    blocks = _named(
        model.features,
        "conv0 norm0 relu0 pool0",
        "denseblock1",
        "transition1 denseblock2",
        "transition2 denseblock3",
        "transition3 denseblock4 norm5",
    )
    named = tuple(replace(block, name=f"features.{block.name}") for block in blocks)
    return (*named[:-1], replace(named[-1], modules=(*named[-1].modules, nn.ReLU(inplace=True))))


def _googlenet_blocks(model: Any) -> tuple[Stage, ...]:
    inceptions = ("3a", "3b maxpool3", "4a", "4b", "4c", "4d", "4e maxpool4", "5a", "5b")
    blocks = _named(model, "conv1 maxpool1", "conv2 conv3 maxpool2", *(f"inception{name}" for name in inceptions))
    return _with_input_transform(model, blocks)


def _inception_blocks(model: Any) -> tuple[Stage, ...]:
    mixed = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
    stem = ("Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 maxpool1", "Conv2d_3b_1x1 Conv2d_4a_3x3 maxpool2")
    return _with_input_transform(model, _named(model, *stem, *(f"Mixed_{name}" for name in mixed)))


def _with_input_transform(model: Any, blocks: tuple[Stage, ...]) -> tuple[Stage, ...]:
    return (replace(blocks[0], modules=(InputTransform(model), *blocks[0].modules)), *blocks[1:])


def _swin_blocks(model: Any) -> tuple[Stage, ...]:
    """Make a block of each stage with the merging of patches before it; the last is normalized and permuted to NCHW."""
    pairs = [f"features.{index} features.{index + 1}" for index in range(0, len(model.features), 2)]
    return _named(model, *pairs[:-1], f"{pairs[-1]} norm permute")


def _vit_blocks(model: Any) -> tuple[Stage, ...]:
    layers = [f"encoder.layers.{name}" for name, _ in model.encoder.layers.named_children()]
    blocks = _named(model, *layers[:-1], f"{layers[-1]} encoder.ln")
    last = replace(blocks[-1], modules=(*blocks[-1].modules, ClassToken()))
    return (Stage(name="conv_proj", modules=(PatchTokens(model),)), *blocks[:-1], last)


def _each_with_parameters(model: Any) -> tuple[Stage, ...]:
    """Make every module of `features` a block; activations and pooling belong to the block before them.

    So no in-place activation stands at the beginning of a block, where it would change what a cut has cached.
    """
    return _grouped(model.features, starts_block=lambda module, _: any(True for _ in module.parameters()))


def _between_pools(model: Any) -> tuple[Stage, ...]:
    """Make what stands between two poolings a block, the pooling included."""
    return _grouped(model.features, starts_block=lambda _, before: isinstance(before, nn.MaxPool2d))


def _grouped(features: nn.Sequential, starts_block: Callable[[nn.Module, nn.Module | None], bool]) -> tuple[Stage, ...]:
    groups: list[tuple[str, list[nn.Module]]] = []
    before: nn.Module | None = None
    for index, module in enumerate(features):
        if before is None or starts_block(module, before):
            groups.append((f"features.{index}", []))
        groups[-1][1].append(module)
        before = module
    return tuple(Stage(name=name, modules=tuple(modules)) for name, modules in groups)


def _classifier(*names: str, flatten: bool = True, flatten_last: bool = False) -> Callable[[Any], Stage]:
    def find(model: Any) -> Stage:
        modules: list[nn.Module] = [getattr(model, name) for name in names]
        if flatten:
            modules.insert(len(modules) if flatten_last else len(modules) - 1, nn.Flatten(1))
        return Stage(name=names[-1], modules=tuple(modules))

    return find


def _functional(*steps: Callable[[], nn.Module], last: str) -> Callable[[Any], Stage]:
    """Make a classifier whose pooling is a function in torchvision."""
    return lambda model: Stage(name=last, modules=(*(step() for step in steps), getattr(model, last)))


def _dropped(model: Any) -> Stage:
    return Stage(name="fc", modules=(model.avgpool, nn.Flatten(1), model.dropout, model.fc))


def _family(
    blocks: Callable[[Any], tuple[Stage, ...]],
    classifier: Callable[[Any], Stage],
    prefixes: Sequence[str],
    options: Callable[[str], dict[str, object]] = lambda _: {},
    width_axis: int | None = 3,
) -> Family:
    return Family(
        blocks=blocks,
        classifier=classifier,
        classifier_prefixes=tuple(prefixes),
        options=options,
        width_axis=width_axis,
    )


def _without_auxiliaries(_: str) -> dict[str, object]:
    return {"aux_logits": False, "transform_input": True, "init_weights": True}


def _vit_options(backbone: str) -> dict[str, object]:
    return {"image_size": torchvision.models.get_model_weights(backbone).DEFAULT.transforms().crop_size[0]}


def _pool() -> nn.Module:
    return nn.AdaptiveAvgPool2d(1)


def _flatten() -> nn.Module:
    return nn.Flatten(1)


_POOLED = _classifier("avgpool", "classifier")
_POOLED_FC = _classifier("avgpool", "fc")
_RESNET = _family(_resnet_blocks, _POOLED_FC, ["fc."])

_FAMILIES = {
    "alexnet": _family(_each_with_parameters, _POOLED, ["classifier."]),
    "vgg": _family(_between_pools, _POOLED, ["classifier."]),
    "resnet": _RESNET,
    "resnext": _RESNET,
    "wide_resnet": _RESNET,
    "regnet": _family(_regnet_blocks, _POOLED_FC, ["fc."]),
    "squeezenet": _family(_each_with_parameters, _classifier("classifier", flatten_last=True), ["classifier."]),
    "mobilenet_v2": _family(_each_with_parameters, _functional(_pool, _flatten, last="classifier"), ["classifier."]),
    "mobilenet_v3": _family(_each_with_parameters, _POOLED, ["classifier."]),
    "efficientnet": _family(_each_with_parameters, _POOLED, ["classifier."]),
    "convnext": _family(_each_with_parameters, _classifier("avgpool", "classifier", flatten=False), ["classifier."]),
    "densenet": _family(_densenet_blocks, _functional(_pool, _flatten, last="classifier"), ["classifier."]),
    "shufflenet": _family(_shufflenet_blocks, _functional(SpatialMean, last="fc"), ["fc."]),
    "mnasnet": _family(_mnasnet_blocks, _functional(SpatialMean, last="classifier"), ["classifier."]),
    "googlenet": _family(_googlenet_blocks, _dropped, ["fc.", "aux1.", "aux2."], _without_auxiliaries),
    "inception": _family(_inception_blocks, _dropped, ["fc.", "AuxLogits."], _without_auxiliaries),
    "swin": _family(_swin_blocks, _classifier("avgpool", "head"), ["head."], width_axis=2),
    "maxvit": _family(_maxvit_blocks, _classifier("classifier", flatten=False), ["classifier."]),
    "vit": _family(_vit_blocks, _functional(_flatten, last="heads"), ["heads."], _vit_options, None),
}
