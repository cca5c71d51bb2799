"""Find the places of a graph behind which a single tensor is alive, so that the model can be cut there."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from unfreeze.contract.errors import WeightsError
from unfreeze.tune.backbones.source import ImageSize

_BATCHES = (1, 2)  # two sizes, to tell which numbers depend on the batch


@dataclass(frozen=True, kw_only=True)
class Batched:
    """A number that is a multiple of the batch size.

    Args:
        factor: the multiple.
    """

    factor: int


@dataclass(frozen=True, kw_only=True)
class Liveness:
    """What is alive behind each node.

    Args:
        nodes: of the graph, in order.
        cuts: the nodes behind which nothing but their own value is needed, in order; it is a tensor with the batch as
            its first axis, and nothing changes it in place.
        shapes: of the tensors, without the batch axis, by node.
        sizes: the values that follow from the image size and the batch size, by node: numbers, `Batched`, tuples of
            them, and types and devices.
        constants: nodes that are computed from parameters and sizes alone.
        output: the node that the model returns.
    """

    nodes: tuple[fx.Node, ...]
    cuts: tuple[fx.Node, ...]
    shapes: dict[fx.Node, tuple[int, ...]]
    sizes: dict[fx.Node, Any]
    constants: frozenset[fx.Node]
    output: fx.Node


def find_cuts(model: nn.Module, graph: fx.Graph, image_size: ImageSize) -> Liveness:
    """Run a graph on noise, in eval mode, and find the nodes behind which the model can be cut.

    Sizes, types and what is computed from parameters alone do not count as alive, because a later block can compute
    them again.

    Args:
        model: the model of the graph.
        graph: takes one tensor and returns one.
        image_size: height and width of the images.

    Raises:
        WeightsError: the graph does not take images of this size, or does not return a single tensor.
    """
    nodes = _without_checks(graph)
    runs = _run(model, graph, image_size, _BATCHES[0]), _run(model, graph, image_size, _BATCHES[1])
    sizes = {}
    for node in nodes[1:-1]:
        size = _size(*(run.values.get(node) for run in runs))
        if size is not None:
            sizes[node] = size
    first = runs[0]
    constants = _constants(nodes, sizes, first)
    output = nodes[-1].args[0]
    if not isinstance(output, fx.Node) or output not in first.shapes:
        raise WeightsError(f"{type(model).__name__} must return one tensor to be cut into blocks")
    cuts = [
        node
        for node in _single(nodes, sizes, constants)
        if first.shapes.get(node, ())[:1] == _BATCHES[:1]
        and runs[1].shapes[node][:1] == _BATCHES[1:]
        and not first.is_changed(node)
    ]
    return Liveness(
        nodes=nodes,
        cuts=tuple(cuts),
        shapes={node: shape[1:] for node, shape in first.shapes.items()},
        sizes=sizes,
        constants=constants,
        output=output,
    )


@dataclass(kw_only=True)
class _Run:
    """The values of a run: shapes of tensors, everything else as it is."""

    shapes: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    versions: dict[fx.Node, tuple[Tensor, int]] = field(default_factory=dict)

    def is_changed(self, node: fx.Node) -> bool:
        """Return whether a later node changed the value of this one in place."""
        tensor, version = self.versions[node]
        return tensor._version != version  # noqa: SLF001 - the counter that autograd uses


class _Recorder(fx.Interpreter):
    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(model, garbage_collect_values=False, graph=graph)
        self.run_values = _Run()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.run_values.shapes[n] = tuple(value.shape)
            self.run_values.versions[n] = value, value._version  # noqa: SLF001
        else:
            self.run_values.values[n] = value
        return value


def _run(model: nn.Module, graph: fx.Graph, image_size: ImageSize, batch: int) -> _Run:
    recorder = _Recorder(model, graph)
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _evaluating(model):
            recorder.run(torch.rand(batch, 3, *image_size, device=device))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        height, width = image_size
        raise WeightsError(
            f"{type(model).__name__} does not accept images of {height} x {width} pixels "
            f"({str(error).strip().splitlines()[0]}); choose another --image-size"
        ) from error
    return recorder.run_values


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode for a while, so that the noise does not enter its batch statistics."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _without_checks(graph: fx.Graph) -> tuple[fx.Node, ...]:
    """Erase assertions, and what only they use: optional arguments and comparisons of sizes; return the other nodes."""
    for node in reversed(list(graph.nodes)):
        is_check = node.target is torch._assert or getattr(node.target, "__name__", "") == "_assert_is_none"  # noqa: SLF001
        is_argument = node.op == "placeholder" and node is not next(iter(graph.nodes))
        is_number = node.op == "call_function" and getattr(node.target, "__module__", "") in ("_operator", "builtins")
        if is_check or (not node.users and (is_argument or is_number)):
            graph.erase_node(node)
    return tuple(graph.nodes)


def _constants(nodes: tuple[fx.Node, ...], sizes: dict[fx.Node, Any], run: _Run) -> frozenset[fx.Node]:
    """Return the nodes that are computed from parameters and sizes alone, and that nothing changes in place."""
    constants: set[fx.Node] = set()
    for node in nodes[1:-1]:
        is_computed = node not in sizes and all(one in constants or one in sizes for one in node.all_input_nodes)
        if is_computed and not (node in run.versions and run.is_changed(node)):
            constants.add(node)
    return frozenset(constants)


def _size(small: Any, large: Any) -> Any:
    """Merge the values of two runs; None if they do not follow from the image size and the batch size."""
    if isinstance(small, tuple | list) and isinstance(large, tuple | list) and len(small) == len(large):
        merged = [_size(*pair) for pair in zip(small, large, strict=True)]
        return None if any(one is None for one in merged) else tuple(merged)
    if isinstance(small, torch.dtype | torch.device) or (
        isinstance(small, bool | int | float | str) and small == large
    ):
        return small
    if isinstance(small, int) and isinstance(large, int) and small * _BATCHES[1] == large * _BATCHES[0]:
        return Batched(factor=small // _BATCHES[0])
    return None


def _single(nodes: tuple[fx.Node, ...], sizes: dict[fx.Node, Any], constants: frozenset[fx.Node]) -> list[fx.Node]:
    """Return the nodes behind which only their own value is alive, in order."""
    order = {node: index for index, node in enumerate(nodes)}
    last_use = {
        node: max((order[user] for user in node.users if user not in sizes), default=-1)
        for node in nodes
        if node not in sizes and node not in constants
    }
    found, alive = [], set[fx.Node]()
    for index, node in enumerate(nodes):
        alive = {one for one in alive if last_use[one] > index}
        if last_use.get(node, -1) > index:
            alive.add(node)
            if len(alive) == 1 and node.op != "placeholder":
                found.append(node)
    return found
