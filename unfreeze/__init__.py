"""From a folder of labeled images to a classifier served over gRPC.

    unfreeze.compare_backbones("images/")                     # needs unfreeze[tune,cpu]
    unfreeze.fine_tune("images/", "run/")                     # needs unfreeze[tune]
    unfreeze.export_model("run/", "models/", "flowers")       # needs unfreeze[tune,cpu]
    with unfreeze.load_model("models/flowers/1/model.onnx") as model:  # needs numpy, Pillow and ONNX Runtime
        model.predict(["tulip.jpg"])
    with unfreeze.Client("localhost:8001") as client:         # needs grpcio; AsyncClient is the asyncio version
        client.predict(["tulip.jpg"])

Modules are imported when a name is first used, so `import unfreeze` is cheap and needs none of the extras.

`Client.predict` and `LocalClassifier.predict` return tuples of `Prediction`; `Client.classify` yields a
`Classification` for each image. Every error that unfreeze raises on purpose is an `UnfreezeError`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unfreeze.compare.options import CompareOptions
    from unfreeze.compare.result import Comparison
    from unfreeze.compare.run import compare_backbones
    from unfreeze.contract.errors import UnfreezeError
    from unfreeze.contract.images.preprocess import PreprocessSpec, prepare
    from unfreeze.contract.model.manifest import Manifest
    from unfreeze.contract.prediction import Prediction
    from unfreeze.export.options import ExportOptions
    from unfreeze.export.run import Published, export_model
    from unfreeze.serve.client.asynchronous import AsyncClient
    from unfreeze.serve.client.blocking import Client
    from unfreeze.serve.client.local import LocalClassifier
    from unfreeze.serve.client.local import LocalClassifier as load_model  # noqa: N813
    from unfreeze.serve.client.messages import Classification
    from unfreeze.tune.options import TuneOptions
    from unfreeze.tune.run import fine_tune

__all__ = [
    "AsyncClient",
    "Classification",
    "Client",
    "CompareOptions",
    "Comparison",
    "ExportOptions",
    "LocalClassifier",
    "Manifest",
    "Prediction",
    "PreprocessSpec",
    "Published",
    "TuneOptions",
    "UnfreezeError",
    "compare_backbones",
    "export_model",
    "fine_tune",
    "load_model",
    "prepare",
]

_LOCATIONS = {
    "AsyncClient": ("unfreeze.serve.client.asynchronous", "AsyncClient"),
    "Classification": ("unfreeze.serve.client.messages", "Classification"),
    "Client": ("unfreeze.serve.client.blocking", "Client"),
    "CompareOptions": ("unfreeze.compare.options", "CompareOptions"),
    "Comparison": ("unfreeze.compare.result", "Comparison"),
    "ExportOptions": ("unfreeze.export.options", "ExportOptions"),
    "LocalClassifier": ("unfreeze.serve.client.local", "LocalClassifier"),
    "Manifest": ("unfreeze.contract.model.manifest", "Manifest"),
    "Prediction": ("unfreeze.contract.prediction", "Prediction"),
    "PreprocessSpec": ("unfreeze.contract.images.preprocess", "PreprocessSpec"),
    "Published": ("unfreeze.export.run", "Published"),
    "TuneOptions": ("unfreeze.tune.options", "TuneOptions"),
    "UnfreezeError": ("unfreeze.contract.errors", "UnfreezeError"),
    "compare_backbones": ("unfreeze.compare.run", "compare_backbones"),
    "export_model": ("unfreeze.export.run", "export_model"),
    "fine_tune": ("unfreeze.tune.run", "fine_tune"),
    "load_model": ("unfreeze.serve.client.local", "LocalClassifier"),
    "prepare": ("unfreeze.contract.images.preprocess", "prepare"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _LOCATIONS:
        raise AttributeError(f"module 'unfreeze' has no attribute {name!r}")
    module, attribute = _LOCATIONS[name]
    value = globals()[name] = getattr(importlib.import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
