"""The stages of torchvision's classifiers: an explicit list per family, in order from the input."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from contract.errors import WeightsError


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
        classifier_prefixes: how the stock classifier's state-dict keys begin.
    """

    blocks: Callable[[Any], tuple[Stage, ...]]
    classifier: Callable[[Any], Stage]
    classifier_prefixes: tuple[str, ...]


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


def _resnet_blocks(model: Any) -> tuple[Stage, ...]:
    stem = Stage(name="conv1", modules=(model.conv1, model.bn1, model.relu, model.maxpool))
    return (stem, *(Stage(name=f"layer{i}", modules=(getattr(model, f"layer{i}"),)) for i in range(1, 5)))


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


def _classifier(*names: str, flatten_before_last: bool = True) -> Callable[[Any], Stage]:
    def find(model: Any) -> Stage:
        modules: list[nn.Module] = [getattr(model, name) for name in names]
        modules.insert(len(modules) - 1 if flatten_before_last else len(modules), nn.Flatten(1))
        return Stage(name=names[-1], modules=tuple(modules))

    return find


def _mobilenet_v2_classifier(model: Any) -> Stage:
    # torchvision pools in its forward, with a function.
    return Stage(name="classifier", modules=(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), model.classifier))


def _family(
    blocks: Callable[[Any], tuple[Stage, ...]], classifier: Callable[[Any], Stage], prefixes: Sequence[str]
) -> Family:
    return Family(blocks=blocks, classifier=classifier, classifier_prefixes=tuple(prefixes))


_POOLED = _classifier("avgpool", "classifier")

_FAMILIES = {
    "vgg": _family(_between_pools, _POOLED, ["classifier."]),
    "resnet": _family(_resnet_blocks, _classifier("avgpool", "fc"), ["fc."]),
    "squeezenet": _family(_each_with_parameters, _classifier("classifier", flatten_before_last=False), ["classifier."]),
    "mobilenet_v2": _family(_each_with_parameters, _mobilenet_v2_classifier, ["classifier."]),
    "mobilenet_v3": _family(_each_with_parameters, _POOLED, ["classifier."]),
    "efficientnet": _family(_each_with_parameters, _POOLED, ["classifier."]),
}
