"""Choose the cuts of a traced model: before the classifier, before some modules, or after modules of the top levels."""

from collections.abc import Iterable, Sequence
from functools import cached_property

from torch import fx, nn

from unfreeze.contract.errors import WeightsError
from unfreeze.tune.backbones.liveness import Liveness
from unfreeze.tune.backbones.tracing import TracedModel

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_FEW_BLOCKS, _MOST_BLOCKS = 6, 40
_DEEPEST_LEVEL = 3
_LAYERS_OF_A_BLOCK = 2


class CutChooser:
    """The candidates for cuts of a model, and rules to choose from them.

    Args:
        model: the model.
        traced: its graph.
        liveness: where the graph can be cut.
    """

    def __init__(self, model: nn.Module, traced: TracedModel, liveness: Liveness) -> None:
        self._model = model
        self._returned_by = traced.returned_by
        self._liveness = liveness
        self._order = {node: index for index, node in enumerate(liveness.nodes)}

    def between(self, start: fx.Node, stop: fx.Node) -> tuple[fx.Node, ...]:
        """Return the nodes after one node, up to another."""
        return self._liveness.nodes[self._order[start] + 1 : self._order[stop] + 1]

    def features(self, classifier_prefixes: tuple[str, ...]) -> fx.Node:
        """Return the node with the features: the last one before the stock classifier and its pooling.

        Raises:
            WeightsError: more than one tensor is alive there.
        """
        first = self._first_call(classifier_prefixes)
        if first is None:
            return self._liveness.output
        before = self._before(first)
        if not before:
            raise WeightsError(f"{type(self._model).__name__} cannot be cut before its classifier")
        unweighted = [node for node in before if not self._has_weights(node, before[-1])]
        return next((node for node in unweighted if any(map(self._is_pooling, node.users))), before[-1])

    def before_modules(self, starts: Iterable[str]) -> list[fx.Node]:
        """Return the last cut before each of some modules but the first, before which there is nothing to freeze."""
        firsts = (self._first_call((f"{start}.",)) for start in list(starts)[1:])
        found = (self._before(first) for first in firsts if first is not None)
        return list(dict.fromkeys(nodes[-1] for nodes in found if nodes))

    def after_top_modules(self, end: fx.Node) -> list[fx.Node]:
        """Return the cuts that end modules of the top levels, as many levels as give a useful number of blocks.

        Args:
            end: node with the features.
        """
        cuts = self._before(end)
        ends = {path for node in (*cuts, end) for path in self._returned_by.get(node, ())}
        chosen: list[fx.Node] = []
        for deepest in range(1, _DEEPEST_LEVEL + 1):
            found = self._with_weights([node for node in cuts if self._ends_module(node, deepest, ends)], end)
            if deepest == 1 or len(found) < _MOST_BLOCKS:
                chosen = found
            if deepest > 1 and len(chosen) >= _FEW_BLOCKS:
                break
        step = -(-(len(chosen) + 1) // _MOST_BLOCKS)  # neighbors are merged if there are too many blocks
        return chosen[step - 1 :: step]

    def _ends_module(self, node: fx.Node, deepest: int, ends: set[str]) -> bool:
        """Return whether a module of the first level ends at a node, or one of the next levels that is uniform."""
        levels = [(path, self._levels[path]) for path in self._returned_by.get(node, ())]
        return any(level <= deepest and (level == 1 or self._is_uniform(path, ends)) for path, level in levels)

    @cached_property
    def _levels(self) -> dict[str, int]:
        """The number of modules on the path to each module, itself included; containers do not count."""
        levels = {"": 0}
        for path, module in self._model.named_modules():
            if path:
                levels[path] = levels[path.rpartition(".")[0]] + (type(module) not in _CONTAINERS)
        return {path: max(1, level) for path, level in levels.items()}

    def _is_uniform(self, path: str, ends: set[str]) -> bool:
        """Return whether a module has several layers, and all modules of its class and level end with a cut.

        Residual blocks are uniform. The layers inside of a block without a shortcut are not.
        """
        module = self._model.get_submodule(path)
        if type(module) in _CONTAINERS:
            return False
        layers = sum(parameter.ndim > 1 for parameter in module.parameters())
        alike = self._alike[type(module), self._levels[path]]
        return layers >= _LAYERS_OF_A_BLOCK and all(name in ends for name in alike)

    @cached_property
    def _alike(self) -> dict[tuple[type[nn.Module], int], list[str]]:
        alike: dict[tuple[type[nn.Module], int], list[str]] = {}
        for path, module in self._model.named_modules():
            alike.setdefault((type(module), self._levels[path]), []).append(path)
        return alike

    def _with_weights(self, cuts: Sequence[fx.Node], end: fx.Node) -> list[fx.Node]:
        """Drop the cuts that have no weights between them and the next one, or before the first one."""
        kept: list[fx.Node] = []
        following = end
        for node in reversed(cuts):
            if self._has_weights(node, following):
                kept.insert(0, node)
                following = node
        while kept and not self._has_weights(self._liveness.nodes[0], kept[0]):
            del kept[0]
        return kept

    def _has_weights(self, start: fx.Node, stop: fx.Node) -> bool:
        """Return whether modules that are first called after one node, up to another, have matrices as parameters."""
        return any(self._order[start] < place <= self._order[stop] for place in self._weighted_calls)

    @cached_property
    def _weighted_calls(self) -> tuple[int, ...]:
        """Where modules with matrices as parameters are called first, as positions of nodes."""
        calls = (node for node in reversed(self._liveness.nodes) if node.op == "call_module")
        first = {str(node.target): self._order[node] for node in calls}
        return tuple(
            place
            for path, place in first.items()
            if any(parameter.ndim > 1 for parameter in self._model.get_submodule(path).parameters())
        )

    def _before(self, node: fx.Node) -> list[fx.Node]:
        return [cut for cut in self._liveness.cuts if self._order[cut] < self._order[node]]

    def _first_call(self, prefixes: tuple[str, ...]) -> fx.Node | None:
        """Return the first call of a module under one of some prefixes of keys, such as "classifier."."""
        calls = (node for node in self._liveness.nodes if node.op == "call_module")
        return next((node for node in calls if f"{node.target}.".startswith(prefixes)), None) if prefixes else None

    def _is_pooling(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return isinstance(self._model.get_submodule(str(node.target)), nn.AdaptiveAvgPool2d)
        return node.target in ("mean", nn.functional.adaptive_avg_pool2d)
