"""Open the model that a device should use."""

from dataclasses import dataclass
from pathlib import Path

from unfreeze.contract.cores import usable_cores
from unfreeze.contract.errors import ModelError
from unfreeze.contract.files import fingerprint
from unfreeze.contract.model.model_file import read_model
from unfreeze.device.model import open_graph
from unfreeze.device.optimized import open_optimized
from unfreeze.device.terminal import say
from unfreeze.device.versions import VersionFile, version_files
from unfreeze.serve.runtimes.onnx_session import OnnxRuntime

FileState = tuple[int, int, int] | None


@dataclass(frozen=True, kw_only=True)
class LoadedVersion:
    """A loaded model, and the file that it was loaded from.

    Args:
        model: the model.
        version: its file.
        state: values that change when the file does.
    """

    model: OnnxRuntime
    version: VersionFile
    state: FileState


def open_model(path: Path, *, threads: int = 0, cache: bool = True) -> OnnxRuntime:
    """Open a model file; its digest and its seal are checked first.

    Args:
        path: of a `model.onnx`.
        threads: CPU threads; 0 for one per core.
        cache: use the optimized graph that is saved next to the model, and save it if there is none.

    Raises:
        ModelError: the file is missing, was changed, or has no valid manifest or graph.
    """
    before = fingerprint(path)
    manifest = read_model(path).manifest
    threads = threads or usable_cores()
    opened = open_optimized(path, manifest, threads) if cache else None
    if opened is None:
        opened = open_graph(path, manifest, threads)
    if fingerprint(path) != before:
        raise ModelError(f"{path} was replaced while it was loaded; load it again")
    return opened


def load_version(version: VersionFile, *, threads: int = 0, cache: bool = True) -> LoadedVersion:
    """Load one version; see `open_model`."""
    state = fingerprint(version.path)
    return LoadedVersion(model=open_model(version.path, threads=threads, cache=cache), version=version, state=state)


def load_usable(path: Path, *, threads: int = 0, cache: bool = True) -> LoadedVersion:
    """Load the version in use; where its file is damaged, the one before it, and so on.

    Args:
        path: of a `model.onnx`, of the folder of a version, or of the folder of a model.
        threads: CPU threads; 0 for one per core.
        cache: see `open_model`.

    Raises:
        ModelError: there is no model, or none can be loaded; the message is that of the first.
    """
    first_error: ModelError | None = None
    for version in version_files(path):
        try:
            return load_version(version, threads=threads, cache=cache)
        except ModelError as error:
            say(f"{version} cannot be used: {error}")
            first_error = first_error or error
    assert first_error is not None  # noqa: S101 - `version_files` returns at least one
    raise first_error
