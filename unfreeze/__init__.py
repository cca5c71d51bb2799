"""From a folder of labelled pictures to a classifier that answers over gRPC.

    unfreeze.tune("pictures/", "run/")                     # needs unfreeze[tune]
    unfreeze.export("run/", "models/", "flowers")          # needs unfreeze[tune] and unfreeze[cpu]
    unfreeze.load("models/flowers/1/model.onnx").predict([...])   # needs numpy, Pillow and ONNX Runtime
    unfreeze.Client("localhost:8001").predict([...])       # needs grpcio; AsyncClient is the same for asyncio

What each name needs is imported when the name is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contract.errors import UnfreezeError
    from contract.manifest import Manifest
    from contract.prediction import Prediction
    from contract.preprocess import PreprocessSpec, prepare
    from export.run import export
    from serve.aio_client import AsyncClient
    from serve.calls import Answer
    from serve.client import Client
    from serve.local import LocalClassifier
    from serve.local import LocalClassifier as load  # noqa: N813
    from tune.options import TuneOptions
    from tune.run import tune

_HOMES = {
    "Answer": ("serve.calls", "Answer"),
    "AsyncClient": ("serve.aio_client", "AsyncClient"),
    "Client": ("serve.client", "Client"),
    "LocalClassifier": ("serve.local", "LocalClassifier"),
    "Manifest": ("contract.manifest", "Manifest"),
    "Prediction": ("contract.prediction", "Prediction"),
    "PreprocessSpec": ("contract.preprocess", "PreprocessSpec"),
    "TuneOptions": ("tune.options", "TuneOptions"),
    "UnfreezeError": ("contract.errors", "UnfreezeError"),
    "export": ("export.run", "export"),
    "load": ("serve.local", "LocalClassifier"),
    "prepare": ("contract.preprocess", "prepare"),
    "tune": ("tune.run", "tune"),
}

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "LocalClassifier",
    "Manifest",
    "Prediction",
    "PreprocessSpec",
    "TuneOptions",
    "UnfreezeError",
    "export",
    "load",
    "prepare",
    "tune",
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
