"""A model file in memory, checked against its seal."""

from dataclasses import dataclass, field
from pathlib import Path

from unfreeze.contract.errors import ModelError
from unfreeze.contract.model.manifest import Manifest
from unfreeze.contract.model.onnx_metadata import read_manifest
from unfreeze.contract.model.repository import read_published
from unfreeze.contract.model.seal import check_seal


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A `model.onnx` and its manifest.

    Args:
        path: the file.
        content: its bytes.
        manifest: the manifest embedded in it.
    """

    path: Path
    content: bytes = field(repr=False)
    manifest: Manifest


def read_model(path: Path) -> ModelFile:
    """Read a model file and check its digest and its seal.

    Args:
        path: a `model.onnx`.

    Raises:
        ModelError: the file was changed after it was published, or has no valid manifest.
    """
    content = read_published(path)
    try:
        check_seal(content)
        manifest = read_manifest(content)
    except ModelError as error:
        raise ModelError(f"{path} {error}") from error.__cause__
    return ModelFile(path=path, content=content, manifest=manifest)
