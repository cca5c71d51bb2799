"""Optimized graphs that are saved once: opening them takes less time and memory than optimizing the model again.

They are for one machine and one version of ONNX Runtime, whose documentation asks for that. A file's name is the key of
the model and the machine, and the digest of the content, so that a partly written or changed file is never used. They
are in `.optimized`, in the model's folder: a version's own folder must stay as it was signed.
"""

import hashlib
from contextlib import suppress
from pathlib import Path

import onnxruntime

from unfreeze.contract.errors import ModelError
from unfreeze.contract.files import sha256_of
from unfreeze.contract.model.manifest import Manifest
from unfreeze.contract.processor import processor_digest
from unfreeze.device.model import open_graph, open_optimized_graph
from unfreeze.device.versions import is_published
from unfreeze.serve.runtimes.golden import verify_answers
from unfreeze.serve.runtimes.onnx_session import OnnxRuntime

FOLDER = ".optimized"
_KEY_DIGITS, _DIGEST_DIGITS = 16, 64


def open_optimized(path: Path, manifest: Manifest, threads: int, folder: Path | None = None) -> OnnxRuntime | None:
    """Open a model's optimized graph, and save it first where there is none.

    A graph that was saved is used only if it classifies the golden images as the model does. A file that stays from an
    attempt that never ended, because it crashed the process, prevents another one.

    Args:
        path: of a `model.onnx`, which was checked.
        manifest: of the model.
        threads: CPU threads.
        folder: of the saved graphs, if it is another one than the model's.

    Returns:
        None if there is none and none can be saved: the folder cannot be written, or the graph fails.
    """
    folder = folder or (path.absolute().parent.parent if is_published(path) else path.absolute().parent) / FOLDER
    key = _key(manifest)
    try:
        graph = _find(folder, key)
        if graph is not None:
            return open_optimized_graph(graph, path, manifest, threads)
        return _saved(folder, key, path, manifest, threads) if manifest.golden else None
    except (ModelError, OSError):
        return None


def discard_others(folder: Path, keep: set[str]) -> None:
    """Delete the optimized graphs of models that are gone.

    Args:
        folder: of the model.
        keep: digests of the models that are left.
    """
    prefixes = {digest[:_KEY_DIGITS] for digest in keep}
    for file in (folder / FOLDER).iterdir() if (folder / FOLDER).is_dir() else ():
        if file.name.lstrip(".")[:_KEY_DIGITS] not in prefixes:
            file.unlink(missing_ok=True)


def _find(folder: Path, key: str) -> Path | None:
    """Find the graph of a key whose content is the one that was saved."""
    for file in sorted(folder.glob(f"{key}-*.onnx")):
        if file.stem[-_DIGEST_DIGITS:] == sha256_of(file):
            return file
        file.unlink()
    return None


def _saved(folder: Path, key: str, path: Path, manifest: Manifest, threads: int) -> OnnxRuntime | None:
    folder.mkdir(exist_ok=True)
    new = folder / f".{key}.onnx"
    try:
        new.touch(exist_ok=False)
    except FileExistsError:
        return None
    try:
        open_graph(path, manifest, threads, save_as=new).close()
        verify_answers(open_optimized_graph(new, path, manifest, threads), str(path))
        graph = new.rename(folder / f"{key}-{sha256_of(new)}.onnx")
    except ModelError:
        return None  # and keep the file, so that it is not tried again
    except (OSError, KeyboardInterrupt):
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    return open_optimized_graph(graph, path, manifest, threads)


def _key(manifest: Manifest) -> str:
    """Name what a graph is for: the model, then the machine and the version of ONNX Runtime."""
    machine = hashlib.sha256(f"{onnxruntime.__version__} {processor_digest()}".encode()).hexdigest()
    return f"{manifest.sha256[:_KEY_DIGITS]}-{machine[:_KEY_DIGITS]}"
