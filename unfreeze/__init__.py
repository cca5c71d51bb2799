"""From a folder of labeled images to a classifier that answers over gRPC.

    unfreeze.fine_tune("images/", "run/")                     # needs unfreeze[tune]
    unfreeze.export_model("run/", "models/", "flowers")          # needs unfreeze[tune] and unfreeze[cpu]
    unfreeze.load_model("models/flowers/1/model.onnx").predict([...])   # needs numpy, Pillow and ONNX Runtime
    unfreeze.Client("localhost:8001").predict([...])       # needs grpcio; AsyncClient is the same for asyncio

What each name needs is imported when the name is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unfreeze.contract.errors import UnfreezeError
    from unfreeze.contract.images.preprocess import PreprocessSpec, prepare
    from unfreeze.contract.model.manifest import Manifest
    from unfreeze.contract.prediction import Prediction
    from unfreeze.export.run import export_model
    from unfreeze.serve.client.asynchronous import AsyncClient
    from unfreeze.serve.client.blocking import Client
    from unfreeze.serve.client.local import LocalClassifier
    from unfreeze.serve.client.local import LocalClassifier as load_model  # noqa: N813
    from unfreeze.serve.client.messages import Classification
    from unfreeze.tune.options import TuneOptions
    from unfreeze.tune.run import fine_tune

_HOMES = {
    "Classification": ("unfreeze.serve.client.messages", "Classification"),
    "AsyncClient": ("unfreeze.serve.client.asynchronous", "AsyncClient"),
    "Client": ("unfreeze.serve.client.blocking", "Client"),
    "LocalClassifier": ("unfreeze.serve.client.local", "LocalClassifier"),
    "Manifest": ("unfreeze.contract.model.manifest", "Manifest"),
    "Prediction": ("unfreeze.contract.prediction", "Prediction"),
    "PreprocessSpec": ("unfreeze.contract.images.preprocess", "PreprocessSpec"),
    "TuneOptions": ("unfreeze.tune.options", "TuneOptions"),
    "UnfreezeError": ("unfreeze.contract.errors", "UnfreezeError"),
    "export_model": ("unfreeze.export.run", "export_model"),
    "load_model": ("unfreeze.serve.client.local", "LocalClassifier"),
    "prepare": ("unfreeze.contract.images.preprocess", "prepare"),
    "fine_tune": ("unfreeze.tune.run", "fine_tune"),
}

__all__ = [
    "AsyncClient",
    "Classification",
    "Client",
    "LocalClassifier",
    "Manifest",
    "Prediction",
    "PreprocessSpec",
    "TuneOptions",
    "UnfreezeError",
    "export_model",
    "fine_tune",
    "load_model",
    "prepare",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'unfreeze' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = globals()[name] = getattr(importlib.import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
