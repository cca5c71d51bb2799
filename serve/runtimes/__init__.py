"""Runtimes: the libraries that execute a model file, behind one interface.

`base` holds the interface and `registry` the list of runtimes; each runtime's own file is imported on first use. To add
one, write its file and add one line to `registry`.
"""

from unfreeze.contract.model.model_file import ModelFile, read_model
from unfreeze.serve.runtimes.base import Runtime, RuntimeOptions
from unfreeze.serve.runtimes.registry import RuntimeName, open_runtime

__all__ = ["ModelFile", "Runtime", "RuntimeName", "RuntimeOptions", "open_runtime", "read_model"]
