"""One's own modules as backbones: `package.module:function`, a function that returns a module."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from unfreeze.contract.errors import WeightsError, first_line
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.tune.backbones.blocks import split
from unfreeze.tune.backbones.source import ImageSize, Structure
from unfreeze.tune.backbones.timm_config import preprocess_from_config
from unfreeze.tune.backbones.tracing import trace

_CONFIGS = ("pretrained_cfg", "default_cfg")


class ModuleSource:
    """Functions that return a module; names are `package.module:function`.

    The module maps images [N, 3, H, W] to features: [N, F], maps [N, F, h, w] or tokens [N, T, F]. A linear layer at
    its end is taken for the stock classifier and removed. The module declares its preprocessing as timm's models do, in
    an attribute `pretrained_cfg`, a dict with `input_size` (3, H, W) and, optionally, `crop_pct`, `crop_mode`,
    `interpolation`, `mean` and `std`; or at least in an attribute `input_size`.

    Two parameters of the function are optional. `pretrained`, a bool, decides between pretrained and random weights;
    without it, the weights that the function returns are used as both. `img_size` receives (height, width).
    """

    def license(self, name: str) -> str:
        """Return nothing: a module declares no license."""
        del name
        return ""

    def preprocess(self, name: str) -> PreprocessSpec:
        """Return the preprocessing that the module declares."""
        function = _function(name)
        model = _call(name, function, {})
        config = next((getattr(model, one) for one in _CONFIGS if isinstance(getattr(model, one, None), Mapping)), None)
        if config is None and hasattr(model, "input_size"):
            config = {"input_size": model.input_size}
        if config is None:
            raise WeightsError(
                f"{name} returns a {type(model).__name__} that declares no input size; set its attribute input_size to "
                "(3, height, width), or pretrained_cfg to a dict with input_size, mean, std and interpolation"
            )
        return preprocess_from_config(config, name)

    def build(self, name: str, image_size: ImageSize) -> nn.Module:
        """Call the function for random weights, where it has a choice."""
        return _call(name, _function(name), {"pretrained": False, "img_size": image_size})

    def classifier_prefixes(self, name: str, model: nn.Module) -> tuple[str, ...]:  # noqa: ARG002
        """Return the prefix of the linear layer that computes the module's output, if there is one."""
        return _last_linear(model)

    def structure(self, name: str, model: nn.Module, image_size: ImageSize) -> Structure:
        """Split a module into blocks where its graph can be cut."""
        return split(model, image_size, classifier_prefixes=self.classifier_prefixes(name, model))

    def load_pretrained_state(self, name: str, image_size: ImageSize) -> dict[str, Tensor]:
        """Call the function for pretrained weights."""
        return _call(name, _function(name), {"pretrained": True, "img_size": image_size}).state_dict()

    def convert_state(self, name: str, state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """Return the state unchanged."""
        del name, model
        return dict(state)


def _function(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:  # as `python -m` does, so that a file beside the data is found
        sys.path.insert(0, folder)
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise WeightsError(
            f"--backbone {name}: cannot import {attribute!r} from {module_name!r} ({first_line(error)}); expected "
            "package.module:function, importable from the current folder"
        ) from error
    if not callable(found):
        raise WeightsError(f"--backbone {name}: expected a function that returns a module, got {type(found).__name__}")
    function: Callable[..., Any] = found
    return function


def _call(name: str, function: Callable[..., Any], options: dict[str, Any]) -> nn.Module:
    parameters = inspect.signature(function).parameters
    try:
        model = function(**{key: value for key, value in options.items() if key in parameters})
    except Exception as error:  # any code runs here
        raise WeightsError(f"--backbone {name} failed: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise WeightsError(f"--backbone {name}: expected a torch.nn.Module, got {type(model).__name__}")
    return model


def _last_linear(model: nn.Module) -> tuple[str, ...]:
    nodes = list(trace(model).graph.nodes)
    last = nodes[-1].args[0]
    is_linear = getattr(last, "op", "") == "call_module" and isinstance(
        model.get_submodule(str(last.target)), nn.Linear
    )
    return (f"{last.target}.",) if is_linear else ()
