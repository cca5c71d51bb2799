"""Split a model into blocks: functions of the model and the activations, compiled from its graph."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn

from unfreeze.tune.backbones.cuts import CutChooser
from unfreeze.tune.backbones.liveness import Batched, Liveness, find_cuts
from unfreeze.tune.backbones.source import Block, Border, ImageSize, Structure
from unfreeze.tune.backbones.tokens import find_pooled_tokens
from unfreeze.tune.backbones.tracing import trace

_MAP_AXES = 3  # of a map without its batch axis


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
        WeightsError: the model cannot be traced, does not accept images of this size, or cannot be cut before its
            classifier.
    """
    traced = trace(model)
    liveness = find_cuts(model, traced.graph, image_size)
    chooser = CutChooser(model, traced, liveness)
    end = chooser.features(classifier_prefixes)
    cuts = chooser.after_top_modules(end) if starts is None else chooser.before_modules(starts)
    builder = _BlockBuilder(model, liveness, chooser, image_size)
    blocks = tuple(builder.build(start, stop) for start, stop in pairwise((liveness.nodes[0], *cuts, end)))
    classifier = None if end is liveness.output else builder.build(end, liveness.output)
    start = cuts[-1] if cuts else liveness.nodes[0]
    return Structure(blocks=blocks, classifier=classifier, token_block=builder.build_tokens(start, end, blocks[-1]))


@dataclass(frozen=True)
class _BlockBuilder:
    """Builds blocks in order from the input: each module and parameter belongs to the first block that uses it."""

    model: nn.Module
    liveness: Liveness
    chooser: CutChooser
    image_size: ImageSize
    owned: set[str] = field(default_factory=set)

    def build(self, start: fx.Node, stop: fx.Node) -> Block:
        """Build the block between two cuts."""
        inside = self.chooser.between(start, stop)
        graph = _copied(self.liveness, start, stop, inside)
        modules, tensors = self._own(graph, "call_module"), self._own(graph, "get_attr")
        return Block(
            name=self._name(inside, modules),
            run=_compiled(graph),
            modules=modules,
            tensors=tensors,
            output=_border(self.liveness.shapes[stop], self.image_size),
        )

    def build_tokens(self, start: fx.Node, end: fx.Node, last: Block) -> Block | None:
        """Build the last block up to the tokens that are pooled to the features."""
        tokens = find_pooled_tokens(self.model, self.liveness, self.chooser, start, end)
        if tokens is None:
            return None
        graph = _copied(self.liveness, start, tokens.node, self.chooser.between(start, tokens.node))
        border = Border(shape=self.liveness.shapes[tokens.node], spatial_axes=(1,), prefix_tokens=tokens.prefix)
        return replace(last, run=_compiled(graph), output=border)

    def _own(self, graph: fx.Graph, op: str) -> tuple[str, ...]:
        used = dict.fromkeys(str(node.target) for node in graph.nodes if node.op == op)
        new = tuple(path for path in used if path not in self.owned)
        self.owned.update(new)
        return new

    def _name(self, inside: Sequence[fx.Node], modules: Sequence[str]) -> str:
        """Return the path of the block's first module with parameters, as far up as all of it is in the block."""
        nodes = set(inside)
        calls = (node for node in self.liveness.nodes if node.op == "call_module")
        outside = {str(node.target) for node in calls if node not in nodes}
        weighted = (path for path in modules if next(self.model.get_submodule(path).parameters(), None) is not None)
        parts = next(weighted, modules[0] if modules else "block").split(".")
        paths = [".".join(parts[: count + 1]) for count in range(len(parts))]
        return next((path for path in paths if not any(_is_under(other, path) for other in outside)), paths[-1])


def _is_under(path: str, ancestor: str) -> bool:
    return path == ancestor or path.startswith(f"{ancestor}.")


def _copied(liveness: Liveness, start: fx.Node, stop: fx.Node, inside: Sequence[fx.Node]) -> fx.Graph:
    """Copy the nodes between two cuts; sizes and constants are computed again where they are used."""
    graph, copies = fx.Graph(), dict[fx.Node, Any]()
    copies[start] = graph.placeholder("activations")

    def copy(node: fx.Node) -> Any:
        if node not in copies:
            size = liveness.sizes.get(node)
            copies[node] = graph.node_copy(node, copy) if size is None else _emit(graph, copies[start], size)
        return copies[node]

    for node in inside:
        if node not in liveness.sizes and node not in liveness.constants:
            copy(node)
    graph.output(copy(stop))
    graph.lint()
    return graph


def _emit(graph: fx.Graph, activations: fx.Node, size: Any) -> Any:
    """Return what stands for a size in a block: a constant, or an expression of the activations."""
    if isinstance(size, tuple):
        return tuple(_emit(graph, activations, one) for one in size)
    if isinstance(size, Batched):
        return graph.call_function(_batch, (activations, size.factor))
    if isinstance(size, torch.dtype | torch.device):
        return graph.call_function(getattr, (activations, "dtype" if isinstance(size, torch.dtype) else "device"))
    return size


def _batch(activations: Tensor, factor: int) -> int | torch.SymInt:
    return activations.shape[0] * factor


def _compiled(graph: fx.Graph) -> Callable[[nn.Module, Tensor], Tensor]:
    """Compile a graph to a function of the model and the activations."""
    code = graph.python_code("self")
    names = dict(code.globals)
    exec(compile(code.src, "<block>", "exec"), names)  # noqa: S102 - code that torch.fx has generated
    function: Callable[[nn.Module, Tensor], Tensor] = names["forward"]
    return function


def _border(shape: tuple[int, ...], image_size: ImageSize) -> Border:
    """Find the axes of height and width: those in the image's ratio, or the last two if both pairs are."""
    if len(shape) != _MAP_AXES:
        return Border(shape=shape, spatial_axes=tuple(range(1, len(shape))))
    is_last = _is_map(shape[:2], image_size) and not _is_map(shape[1:], image_size)
    return Border(shape=shape, spatial_axes=(1, 2) if is_last else (2, 3))


def _is_map(sides: tuple[int, ...], image_size: ImageSize) -> bool:
    """Return whether two sides have the ratio of the image's height and width, up to rounding."""
    return abs(sides[0] * image_size[1] - sides[1] * image_size[0]) < max(image_size)
