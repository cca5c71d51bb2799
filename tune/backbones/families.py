"""How each family of torchvision's classifiers splits into blocks, listed in order from the input."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torchvision
from torch import nn

from unfreeze.contract.errors import WeightsError
from unfreeze.tune.backbones.adapters import ClassToken, InputTransform, PatchTokens, SpatialMean
from unfreeze.tune.backbones.source import Block


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the models of one family are split into blocks.

    Args:
        blocks: returns a model's blocks, without the stock classifier.
        classifier: returns the stock classifier, including its pooling, as a block.
        classifier_prefixes: prefixes of the state-dict keys of the stock classifier and of auxiliary classifiers.
        options: returns the options of torchvision's builder for a model, by the builder's name.
        width_axis: axis of the image's width in the activations between blocks; None for tokens.
        renamed_keys: regular expressions, and their replacements, that turn the keys of torchvision's published files
            into those of its models.
    """

    blocks: Callable[[Any], tuple[Block, ...]]
    classifier: Callable[[Any], Block]
    classifier_prefixes: tuple[str, ...]
    options: Callable[[str], dict[str, object]] = lambda _: {}
    width_axis: int | None = 3
    renamed_keys: tuple[tuple[str, str], ...] = ()


def family_of(name: str) -> Family:
    """Find the family of a torchvision model.

    Args:
        name: the name of torchvision's builder, like "resnet18".

    Raises:
        WeightsError: models of this name cannot be split into blocks; the message lists the supported families.
    """
    for prefix, family in FAMILIES.items():
        if name.startswith(prefix):
            return family
    supported = ", ".join(f"{prefix}*" for prefix in FAMILIES)
    raise WeightsError(f"torchvision model {name!r} is not supported as a backbone; supported: {supported}")


def _named(model: Any, *groups: str) -> tuple[Block, ...]:
    """Make a block of each group of modules; a group lists module names, separated by spaces."""
    modules = [tuple(model.get_submodule(name) for name in group.split()) for group in groups]
    return tuple(Block(name=group.split()[0], modules=own) for group, own in zip(groups, modules, strict=True))


def _resnet_blocks(model: Any) -> tuple[Block, ...]:
    return _named(model, "conv1 bn1 relu maxpool", "layer1", "layer2", "layer3", "layer4")


def _regnet_blocks(model: Any) -> tuple[Block, ...]:
    return _named(model, "stem", *(f"trunk_output.{name}" for name, _ in model.trunk_output.named_children()))


def _maxvit_blocks(model: Any) -> tuple[Block, ...]:
    return _named(model, "stem", *(f"blocks.{index}" for index in range(len(model.blocks))))


def _shufflenet_blocks(model: Any) -> tuple[Block, ...]:
    return _named(model, "conv1 maxpool", "stage2", "stage3", "stage4", "conv5")


def _mnasnet_blocks(model: Any) -> tuple[Block, ...]:
    """Make a block of each stack; the single layers form the blocks before and after the stacks."""
    stacks = [f"layers.{index}" for index, layer in enumerate(model.layers) if isinstance(layer, nn.Sequential)]
    stem, separable, top = (
        " ".join(f"layers.{index}" for index in group) for group in (range(3), range(3, 8), range(14, 17))
    )
    return _named(model, stem, separable, *stacks, top)


def _densenet_blocks(model: Any) -> tuple[Block, ...]:
    """Make a block of each dense block and the transition before it; the model's last ReLU is not a module."""
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


def _googlenet_blocks(model: Any) -> tuple[Block, ...]:
    inceptions = ("3a", "3b maxpool3", "4a", "4b", "4c", "4d", "4e maxpool4", "5a", "5b")
    blocks = _named(model, "conv1 maxpool1", "conv2 conv3 maxpool2", *(f"inception{name}" for name in inceptions))
    return _with_input_transform(model, blocks)


def _inception_blocks(model: Any) -> tuple[Block, ...]:
    mixed = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
    stem = ("Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 maxpool1", "Conv2d_3b_1x1 Conv2d_4a_3x3 maxpool2")
    return _with_input_transform(model, _named(model, *stem, *(f"Mixed_{name}" for name in mixed)))


def _with_input_transform(model: Any, blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    return (replace(blocks[0], modules=(InputTransform(model), *blocks[0].modules)), *blocks[1:])


def _swin_blocks(model: Any) -> tuple[Block, ...]:
    """Make a block of each stage and the patch merging before it; the last one normalizes and permutes to NCHW."""
    pairs = [f"features.{index} features.{index + 1}" for index in range(0, len(model.features), 2)]
    return _named(model, *pairs[:-1], f"{pairs[-1]} norm permute")


def _vit_blocks(model: Any) -> tuple[Block, ...]:
    layers = [f"encoder.layers.{name}" for name, _ in model.encoder.layers.named_children()]
    blocks = _named(model, *layers[:-1], f"{layers[-1]} encoder.ln")
    last = replace(blocks[-1], modules=(*blocks[-1].modules, ClassToken()))
    return (Block(name="conv_proj", modules=(PatchTokens(model),)), *blocks[:-1], last)


def _split_at_parameters(model: Any) -> tuple[Block, ...]:
    """Start a block at every module of `features` that has parameters.

    Activation functions and pooling belong to the block before them: an in-place activation at the start of a block
    would overwrite the cached activations of the cut.
    """
    return _grouped(model.features, starts_block=lambda module, _: any(True for _ in module.parameters()))


def _split_after_pools(model: Any) -> tuple[Block, ...]:
    """Start a block after every max pooling."""
    return _grouped(model.features, starts_block=lambda _, before: isinstance(before, nn.MaxPool2d))


def _grouped(features: nn.Sequential, starts_block: Callable[[nn.Module, nn.Module | None], bool]) -> tuple[Block, ...]:
    groups: list[tuple[str, list[nn.Module]]] = []
    before: nn.Module | None = None
    for index, module in enumerate(features):
        if before is None or starts_block(module, before):
            groups.append((f"features.{index}", []))
        groups[-1][1].append(module)
        before = module
    return tuple(Block(name=name, modules=tuple(modules)) for name, modules in groups)


def _classifier(*names: str, flatten: bool = True, flatten_last: bool = False) -> Callable[[Any], Block]:
    def find(model: Any) -> Block:
        modules: list[nn.Module] = [getattr(model, name) for name in names]
        if flatten:
            modules.insert(len(modules) if flatten_last else len(modules) - 1, nn.Flatten(1))
        return Block(name=names[-1], modules=tuple(modules))

    return find


def _functional(*steps: Callable[[], nn.Module], last: str) -> Callable[[Any], Block]:
    """Return a classifier whose pooling is a function, not a module, in torchvision."""
    return lambda model: Block(name=last, modules=(*(step() for step in steps), getattr(model, last)))


def _dropout_classifier(model: Any) -> Block:
    return Block(name="fc", modules=(model.avgpool, nn.Flatten(1), model.dropout, model.fc))


def _without_auxiliaries(_: str) -> dict[str, object]:
    return {"aux_logits": False, "transform_input": True, "init_weights": True}


def _vit_options(name: str) -> dict[str, object]:
    return {"image_size": torchvision.models.get_model_weights(name).DEFAULT.transforms().crop_size[0]}


def _pool() -> nn.Module:
    return nn.AdaptiveAvgPool2d(1)


def _flatten() -> nn.Module:
    return nn.Flatten(1)


_POOLED = _classifier("avgpool", "classifier")
_POOLED_FC = _classifier("avgpool", "fc")
_POOLED_FUNCTION = _functional(_pool, _flatten, last="classifier")
_CLASSIFIER, _FC = ("classifier.",), ("fc.",)
_RESNET = Family(blocks=_resnet_blocks, classifier=_POOLED_FC, classifier_prefixes=_FC)
_FEATURES = Family(blocks=_split_at_parameters, classifier=_POOLED, classifier_prefixes=_CLASSIFIER)

# A model belongs to the first family whose key its name starts with.
FAMILIES = {
    "alexnet": _FEATURES,
    "vgg": replace(_FEATURES, blocks=_split_after_pools),
    "resnet": _RESNET,
    "resnext": _RESNET,
    "wide_resnet": _RESNET,
    "regnet": replace(_RESNET, blocks=_regnet_blocks),
    "squeezenet": replace(_FEATURES, classifier=_classifier("classifier", flatten_last=True)),
    "mobilenet_v2": replace(_FEATURES, classifier=_POOLED_FUNCTION),
    "mobilenet_v3": _FEATURES,
    "efficientnet": _FEATURES,
    "convnext": replace(_FEATURES, classifier=_classifier("avgpool", "classifier", flatten=False)),
    "densenet": Family(
        blocks=_densenet_blocks,
        classifier=_POOLED_FUNCTION,
        classifier_prefixes=_CLASSIFIER,
        renamed_keys=((r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2."),),
    ),
    "shufflenet": Family(
        blocks=_shufflenet_blocks, classifier=_functional(SpatialMean, last="fc"), classifier_prefixes=_FC
    ),
    "mnasnet": Family(
        blocks=_mnasnet_blocks, classifier=_functional(SpatialMean, last="classifier"), classifier_prefixes=_CLASSIFIER
    ),
    "googlenet": Family(
        blocks=_googlenet_blocks,
        classifier=_dropout_classifier,
        classifier_prefixes=("fc.", "aux1.", "aux2."),
        options=_without_auxiliaries,
    ),
    "inception": Family(
        blocks=_inception_blocks,
        classifier=_dropout_classifier,
        classifier_prefixes=("fc.", "AuxLogits."),
        options=_without_auxiliaries,
    ),
    "swin": Family(
        blocks=_swin_blocks,
        classifier=_classifier("avgpool", "head"),
        classifier_prefixes=("head.",),
        width_axis=2,
    ),
    "maxvit": Family(
        blocks=_maxvit_blocks,
        classifier=_classifier("classifier", flatten=False),
        classifier_prefixes=_CLASSIFIER,
    ),
    "vit": Family(
        blocks=_vit_blocks,
        classifier=_functional(_flatten, last="heads"),
        classifier_prefixes=("heads.",),
        options=_vit_options,
        width_axis=None,
        renamed_keys=((r"\.mlp\.linear_1\.", ".mlp.0."), (r"\.mlp\.linear_2\.", ".mlp.3.")),
    ),
}
