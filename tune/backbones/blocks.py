"""Split a traced model into blocks: which cuts to use, and the code between them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from unfreeze.contract.errors import WeightsError
from unfreeze.tune.backbones.liveness import Batched, Liveness, find_cuts
from unfreeze.tune.backbones.source import Block, Border, ImageSize, Structure
from unfreeze.tune.backbones.tracing import TracedModel, trace

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_FEW_BLOCKS, _MOST_BLOCKS = 6, 40
_DEEPEST_LEVEL = 3


def split(
    model: nn.Module,
    image_size: ImageSize,
    *,
    starts: Iterable[str] | None = None,
    classifier_prefixes: tuple[str, ...] = (),
) -> Structure:
    """Split a model into blocks.

    The model is traced to a graph, and can be cut wherever a single tensor is alive. Without `starts`, the cuts are
    those that end a module of the top levels: all of the first level, and the second and third level where every
    module of a class ends with a cut, like the residual blocks of a stage. A block starts at a module with weights;
    normalization, activation and pooling belong to the block before them.

    Args:
        model: maps images [N, 3, H, W] to one tensor.
        image_size: height and width of the images.
        starts: paths of the modules at which blocks start, instead of the rule above.
        classifier_prefixes: prefixes of the keys of the stock classifier and of auxiliary classifiers. The blocks end
            before its pooling. Without a classifier, they end with the model.

    Raises:
        WeightsError: the model cannot be traced, does not accept images of this size, or has no cut where one is
            required.
    """
    traced = trace(model)
    liveness = find_cuts(model, traced.graph, image_size)
    splitter = _Splitter(model, traced, liveness, {node: index for index, node in enumerate(liveness.nodes)}, image_size)
    end = splitter.features(classifier_prefixes)
    cuts = splitter.choose(end) if starts is None else splitter.before(starts)
    return splitter.structure(cuts, end)


@dataclass(frozen=True)
class _Splitter:
    """The graph of a model, with what is known about its nodes."""

    model: nn.Module
    traced: TracedModel
    liveness: Liveness
    order: dict[fx.Node, int]
    image_size: ImageSize

    def features(self, classifier_prefixes: tuple[str, ...]) -> fx.Node:
        """Return the node with the features: the last one before the stock classifier and its pooling."""
        first = next((node for node in self.liveness.nodes if _is_inside(node, classifier_prefixes)), None)
        if first is None:
            return self.liveness.output
        before = [node for node in self.liveness.cuts if self.order[node] < self.order[first]]
        if not before:
            raise WeightsError(f"{type(self.model).__name__} cannot be cut before its classifier")
        unweighted = [node for node in before if not self._has_weights(node, before[-1])]
        return next((node for node in unweighted if any(map(self._is_pooling, node.users))), before[-1])

    def before(self, starts: Iterable[str]) -> list[fx.Node]:
        """Return the last cut before each of some modules but the first, before which there is nothing to freeze."""
        firsts = [
            next((self.order[node] for node in self.liveness.nodes if _is_inside(node, (f"{start}.",))), 0)
            for start in list(starts)[1:]
        ]
        found = [[node for node in self.liveness.cuts if self.order[node] < first] for first in firsts]
        return list(dict.fromkeys(nodes[-1] for nodes in found if nodes))

    def choose(self, end: fx.Node) -> list[fx.Node]:
        """Return the cuts that end modules of the top levels, as many levels as there are cuts to choose from."""
        cuts = [node for node in self.liveness.cuts if self.order[node] < self.order[end]]
        levels = {node: self._levels(node) for node in cuts}
        ends = {path for node in (*cuts, end) for path in self.traced.returned_by.get(node, ())}
        chosen: list[fx.Node] = []
        for deepest in range(1, _DEEPEST_LEVEL + 1):
            wanted = [
                node
                for node in cuts
                if any(level <= deepest and (level <= 1 or self._is_uniform(path, ends)) for path, level in levels[node])
            ]
            found = self._weighted(wanted, end)
            if deepest == 1 or len(found) <= _MOST_BLOCKS:
                chosen = found
            if deepest > 1 and len(chosen) >= _FEW_BLOCKS:
                break
        step = -(-(len(chosen) + 1) // _MOST_BLOCKS)
        return chosen[step - 1 :: step] if step > 1 else chosen

    def _levels(self, node: fx.Node) -> list[tuple[str, int]]:
        """Return the paths of the modules that end at a node, with their levels; containers do not count as one."""
        return [(path, self._level(path)) for path in self.traced.returned_by.get(node, ())]

    def _level(self, path: str) -> int:
        parts = path.split(".")
        modules = (self.model.get_submodule(".".join(parts[: count + 1])) for count in range(len(parts)))
        return max(1, sum(type(module) not in _CONTAINERS for module in modules))

    def _is_uniform(self, path: str, ends: set[str]) -> bool:
        """Return whether a module has several weighted layers, and all modules of its class and level end with a cut."""
        module, level = self.model.get_submodule(path), self._level(path)
        if type(module) in _CONTAINERS or sum(parameter.ndim > 1 for parameter in module.parameters()) < 2:  # noqa: PLR2004
            return False
        alike = [name for name, other in self.model.named_modules() if type(other) is type(module)]
        return all(name in ends for name in alike if self._level(name) == level)

    def _weighted(self, cuts: Sequence[fx.Node], end: fx.Node) -> list[fx.Node]:
        """Drop the cuts that do not have weights on both sides, up to the next cut."""
        kept: list[fx.Node] = []
        following = end
        for node in reversed(cuts):
            if self._has_weights(node, following):
                kept.append(node)
                following = node
        kept.reverse()
        first = kept[0] if kept else None
        return kept if first is None or self._has_weights(self.liveness.nodes[0], first) else kept[1:]

    def _has_weights(self, start: fx.Node, end: fx.Node) -> bool:
        """Return whether the modules that are called after one node, up to another, have matrices as parameters."""
        called = self.liveness.nodes[self.order[start] + 1 : self.order[end] + 1]
        return any(
            parameter.ndim > 1
            for node in called
            if node.op == "call_module"
            for parameter in self.model.get_submodule(str(node.target)).parameters()
        )

    def _is_pooling(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return isinstance(self.model.get_submodule(str(node.target)), nn.AdaptiveAvgPool2d)
        return node.target in ("mean", nn.functional.adaptive_avg_pool2d)

    def structure(self, cuts: Sequence[fx.Node], end: fx.Node) -> Structure:
        """Return the blocks between the cuts, and the classifier after the features."""
        nodes = [self.liveness.nodes[0], *cuts, end]
        owned: set[str] = set()
        blocks = tuple(
            self._block(start, stop, owned) for start, stop in zip(nodes[:-1], nodes[1:], strict=True)
        )
        output = self.liveness.output
        classifier = None if end is output else self._block(end, output, owned)
        return Structure(blocks=blocks, classifier=classifier)

    def _block(self, start: fx.Node, stop: fx.Node, owned: set[str]) -> Block:
        graph = _between(self.liveness, start, stop)
        modules = _targets(graph, "call_module", owned)
        tensors = _targets(graph, "get_attr", owned)
        owned.update(modules, tensors)
        return Block(
            name=self._name(start, stop),
            run=_compiled(graph),
            modules=modules,
            tensors=tensors,
            output=_border(self.liveness.shapes[stop], self.image_size),
        )

    def _name(self, start: fx.Node, stop: fx.Node) -> str:
        """Return the path of the first module with weights, as far up as all of it is in the block."""
        inside = self.liveness.nodes[self.order[start] + 1 : self.order[stop] + 1]
        called = [str(node.target) for node in inside if node.op == "call_module"]
        outside = [
            str(node.target) for node in self.liveness.nodes if node.op == "call_module" and node not in inside
        ]
        weighted = [path for path in called if any(True for _ in self.model.get_submodule(path).parameters())]
        parts = (weighted or called or ["features"])[0].split(".")
        paths = [".".join(parts[: count + 1]) for count in range(len(parts))]
        return next((path for path in paths if not any(_is_under(one, path) for one in outside)), paths[-1])


def _is_under(path: str, ancestor: str) -> bool:
    return path == ancestor or path.startswith(f"{ancestor}.")


def _is_inside(node: fx.Node, prefixes: tuple[str, ...]) -> bool:
    """Return whether a node calls a module under one of some prefixes of keys, such as "classifier."."""
    return node.op == "call_module" and f"{node.target}.".startswith(prefixes) if prefixes else False


def _targets(graph: fx.Graph, op: str, owned: set[str]) -> tuple[str, ...]:
    found = dict.fromkeys(str(node.target) for node in graph.nodes if node.op == op)
    return tuple(path for path in found if path not in owned)


def _between(liveness: Liveness, start: fx.Node, stop: fx.Node) -> fx.Graph:
    """Copy the nodes after one cut up to another; sizes and constants are computed again."""
    graph, copies = fx.Graph(), dict[fx.Node, Any]()
    copies[start] = graph.placeholder("activations")

    def copied(node: fx.Node) -> Any:
        if node not in copies:
            copies[node] = (
                _emitted(graph, copies[start], liveness.sizes[node])
                if node in liveness.sizes
                else graph.node_copy(node, copied)
            )
        return copies[node]

    first, last = liveness.nodes.index(start), liveness.nodes.index(stop)
    for node in liveness.nodes[first + 1 : last + 1]:
        if node not in liveness.sizes and node not in liveness.constants:  # those are computed where they are used
            copied(node)
    graph.output(copied(stop))
    graph.lint()
    return graph


def _emitted(graph: fx.Graph, activations: fx.Node, size: Any) -> Any:
    """Return what stands for a size in a block: a constant, or an expression of the batch size."""
    if isinstance(size, tuple):
        return tuple(_emitted(graph, activations, one) for one in size)
    if isinstance(size, Batched):
        batch = graph.call_method("size", (activations, 0))
        return batch if size.factor == 1 else graph.call_function(_times, (batch, size.factor))
    if isinstance(size, torch.dtype | torch.device):
        name = "dtype" if isinstance(size, torch.dtype) else "device"
        return graph.call_function(getattr, (activations, name))
    return size


def _times(batch: int, factor: int) -> int:
    return batch * factor


def _compiled(graph: fx.Graph) -> Callable[[nn.Module, Tensor], Tensor]:
    """Compile a graph to a function of the model and the activations."""
    code = graph.python_code("self")
    names = dict(code.globals)
    exec(compile(code.src, "<block>", "exec"), names)  # noqa: S102 - code that torch.fx has generated
    function: Callable[[nn.Module, Tensor], Tensor] = names["forward"]
    return function


def _border(shape: tuple[int, ...], image_size: ImageSize) -> Border:
    if len(shape) == 3:  # noqa: PLR2004 - maps, with the channels first or last
        is_last = _is_map(shape[:2], image_size) and not _is_map(shape[1:], image_size)
        return Border(shape=shape, spatial_axes=(1, 2) if is_last else (2, 3))
    return Border(shape=shape, spatial_axes=tuple(range(1, len(shape))))


def _is_map(sides: tuple[int, ...], image_size: ImageSize) -> bool:
    """Return whether two sides have the ratio of the image's height and width, up to rounding."""
    return abs(sides[0] * image_size[1] - sides[1] * image_size[0]) < max(image_size)
