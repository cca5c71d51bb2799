"""Trace a model to a graph of the calls of its modules, in a way that holds in training and in evaluation mode."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from unfreeze.contract.errors import WeightsError, first_line


@dataclass(frozen=True, kw_only=True)
class TracedModel:
    """The graph of a model.

    Args:
        graph: its nodes refer to modules and parameters by their path in the model.
        returned_by: paths of the modules that return the value of a node, the innermost first.
        opaque: why a module's inside is not in the graph, by the path of the module.
    """

    graph: fx.Graph
    returned_by: dict[fx.Node, list[str]]
    opaque: dict[str, str]


def trace(model: nn.Module) -> TracedModel:
    """Trace a model symbolically.

    A module is one call in the graph if it is torch's own, or if its `forward` cannot be traced: it branches on values
    or sizes, or it depends on whether the module is in training mode. Everything else is traced through, so that a call
    in the graph behaves in either mode as it does in the model. The model itself is traced as in evaluation.

    Tensors that the model's own `forward` creates become buffers of the model that are not saved.

    Args:
        model: takes one tensor, and optional arguments, which keep their defaults.

    Raises:
        WeightsError: the model's own `forward` cannot be traced.
    """
    training = model.training
    model.training = False  # of the model alone: its modules are traced independently of the mode
    tracer, own = _Tracer(), set(vars(model))
    try:
        graph = tracer.trace(model, concrete_args=_defaults(model))
    except Exception as error:  # the code of any model runs here
        raise WeightsError(
            f"{type(model).__name__} cannot be cut into blocks: torch.fx cannot trace its forward method "
            f"({first_line(error)})"
        ) from error
    finally:
        model.training = training
    for name in set(vars(model)) - own:  # constants, which would otherwise stay on their device
        model.register_buffer(name, model.__dict__.pop(name), persistent=False)
    return TracedModel(graph=graph, returned_by=tracer.returned_by, opaque=tracer.opaque)


def _defaults(model: nn.Module) -> dict[str, Any]:
    """Return the optional arguments of a model's forward method."""
    parameters = inspect.signature(model.forward).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}


class _UnknownMode:
    """Stands for `training` while a module is traced, so that a module that reads it is not traced through."""

    def __bool__(self) -> bool:
        raise fx.proxy.TraceError("depends on the training mode")


class _Tracer(fx.Tracer):
    def __init__(self) -> None:
        super().__init__()
        self.returned_by: dict[fx.Node, list[str]] = {}
        self.opaque: dict[str, str] = {}
        self._parameters: dict[str, fx.Proxy] = {}

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:  # noqa: ARG002
        """Return the node of a parameter or buffer, one for all its uses."""
        return super().getattr(attr, attr_val, self._parameters)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is a single call without an attempt to trace it."""
        if isinstance(m, nn.Sequential):
            return False
        return super().is_leaf_module(m, module_qualified_name) or next(m.children(), None) is None

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace through a module, or record one call if that fails."""
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path):
            return self._record(path, self.create_proxy("call_module", path, args, kwargs))
        last, stack = next(iter(reversed(self.graph.nodes))), dict(self.module_stack)
        mode = m.__dict__["training"]
        m.__dict__["training"] = _UnknownMode()
        try:
            return self._record(path, super().call_module(m, forward, args, kwargs))
        except Exception as error:  # noqa: BLE001 - the code of any module runs here
            self.opaque[path] = first_line(error)
        finally:
            m.__dict__["training"] = mode
        self._forget_after(last)
        self.module_stack.clear()
        self.module_stack.update(stack)
        return self._record(path, self.create_proxy("call_module", path, args, kwargs))

    def _record(self, path: str, value: Any) -> Any:
        if isinstance(value, fx.Proxy):
            self.returned_by.setdefault(value.node, []).append(path)
        return value

    def _forget_after(self, last: fx.Node) -> None:
        """Erase the nodes that a failed attempt has left behind a node."""
        for node in list(reversed(self.graph.nodes)):
            if node is last:
                return
            self.returned_by.pop(node, None)
            if node.op == "get_attr":
                self._parameters.pop(str(node.target), None)
            self.graph.erase_node(node)
