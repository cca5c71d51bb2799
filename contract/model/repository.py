"""The model repository: `NAME/VERSION/model.onnx` with `config.pbtxt` and `labels.txt`, NVIDIA Triton's convention."""

import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from unfreeze.contract.errors import ModelError, RepositoryError
from unfreeze.contract.model.kserve import kserve_yaml
from unfreeze.contract.model.manifest import INPUT, OUTPUT, Manifest

MODEL_FILE, INDEX_FILE, SIGNATURE_FILE = "model.onnx", "SHA256SUMS", "model.sig"
ENCODED_SUFFIX = ".encoded"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_STAGING_PREFIX = ".staging-"
_TRIES = 100
_MOST_BYTES = 2**31  # what protobuf, and so ONNX, can hold
_MOST_VERSIONS = 999_999_999
_log = logging.getLogger(__name__)
_OURS = "# Written by unfreeze export; without this line it would be kept as it is.\n"


class ModelRepository:
    """A folder of models, each with its numbered versions.

    Args:
        root: the folder; `publish` makes it where it is missing.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def models(self) -> dict[str, tuple[int, ...]]:
        """List the models and their versions, oldest first; a folder that cannot be read is left out, with a warning.

        Raises:
            RepositoryError: the folder does not exist.
        """
        if not self.root.is_dir():
            raise RepositoryError(f"{self.root} is no folder; `unfreeze export` makes a model repository")
        found: dict[str, tuple[int, ...]] = {}
        for entry in sorted(self.root.iterdir()):
            try:
                if _is_name(entry.name) and entry.is_dir() and (versions := self.versions(entry.name)):
                    found[entry.name] = versions
            except OSError as error:
                _log.warning("%s is left out: %s", entry, error.strerror)
        return found

    def versions(self, name: str) -> tuple[int, ...]:
        """List the versions of a model that hold a `model.onnx`, oldest first; none where there is no such model."""
        return tuple(sorted(number for number in self._numbers(name) if self.path(name, number).is_file()))

    def _numbers(self, name: str) -> list[int]:
        """List what has a version's number, whatever it holds."""
        folder = self.root / check_name(name)
        entries = list(folder.iterdir()) if folder.is_dir() else []
        return [int(entry.name) for entry in entries if re.fullmatch(r"[1-9][0-9]{0,8}", entry.name)]

    def path(self, name: str, version: int) -> Path:
        """Say where a version's `model.onnx` stands."""
        return self.root / check_name(name) / str(version) / MODEL_FILE

    def check_room(self, name: str) -> None:
        """See that a model could be published: better now than after minutes of work.

        Args:
            name: the model's.

        Raises:
            RepositoryError: the name is no name, or the folder cannot be written.
        """
        model = self.root.absolute() / check_name(name)
        there = next(path for path in (model, *model.parents) if path.is_symlink() or path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise RepositoryError(f"cannot publish {name} into {self.root}: {there} is no folder that can be written")

    def publish(
        self,
        name: str,
        model: bytes,
        manifest: Manifest,
        more: Mapping[str, bytes] | None = None,
        sign: Callable[[Path], bytes] | None = None,
    ) -> int:
        """Add a version, all of it or nothing.

        Everything is written and flushed to disk under a hidden name and then renamed, so that a reader never sees half
        a model, and a crash leaves the versions before it untouched. A `config.pbtxt` or `kserve.yaml` that somebody
        wrote is kept.

        Args:
            name: letters, digits, `.`, `_` and `-`.
            model: the content of `model.onnx`.
            manifest: what it says of itself; gives what lies beside the versions.
            more: other files of the version, by name.
            sign: makes a signature of the version's folder, which is put into it.

        Returns:
            The new version's number: one more than the newest.

        Raises:
            RepositoryError: the name is no name, or the folder cannot be written.
        """
        check_name(name)
        version = {MODEL_FILE: model, **(more or {})}
        version[INDEX_FILE] = "".join(f"{_sha256(content)}  {file}\n" for file, content in version.items()).encode()
        beside = {
            "config.pbtxt": config_pbtxt(name, manifest).encode(),
            "kserve.yaml": (_OURS + kserve_yaml(name)).encode(),
            "labels.txt": "".join(f"{label}\n" for label in manifest.labels).encode(),
        }
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with _staging(self.root) as staging:
                return self._rename_in(name, version, beside, staging, sign)
        except OSError as error:
            raise RepositoryError(f"cannot publish {name} into {self.root}: {error}; nothing was changed") from error

    def _rename_in(
        self,
        name: str,
        version: dict[str, bytes],
        beside: dict[str, bytes],
        staging: Path,
        sign: Callable[[Path], bytes] | None,
    ) -> int:
        for _ in range(_TRIES):
            number = max(self._numbers(name), default=0) + 1
            if number > _MOST_VERSIONS:
                raise OSError(f"{name} has version {number - 1:,} already, and no number is left above it")
            whole = staging / name
            files = {f"{number}/{file}": content for file, content in version.items()} | beside
            for file, content in files.items():
                _write(whole / file, content)
            if sign is not None:
                _write(whole / str(number) / SIGNATURE_FILE, sign(whole / str(number)))
            if self._renamed(whole, number):
                return number
            shutil.rmtree(whole)
        raise OSError(f"{_TRIES} other publications came in between")

    def _renamed(self, whole: Path, version: int) -> bool:
        model, numbered = self.root / whole.name, str(version)
        try:
            if model.is_dir():
                (whole / numbered).rename(model / numbered)
            else:
                whole.rename(model)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # somebody else published in between
                return False
            raise
        try:
            for file in whole.iterdir() if whole.is_dir() else ():
                if file.is_file() and not _is_somebodys(model / file.name):
                    file.replace(model / file.name)
            _flush(model)
            _flush(self.root)
        except OSError as error:
            raise RepositoryError(
                f"{model.name} version {version} is published, but what lies beside it could not be written: {error}"
            ) from error
        return True


def find_model(path: Path) -> Path:
    """Find the `model.onnx` that somebody means: a file, a version's folder, or a model's with its newest version.

    Args:
        path: what was named.

    Raises:
        ModelError: there is none.
    """
    if path.is_file():
        return path
    path = path if path.name not in ("", "..") else path.resolve()  # "." is a folder with a name
    if (path / MODEL_FILE).is_file():
        return path / MODEL_FILE
    repository = ModelRepository(path.parent)
    versions = repository.versions(path.name) if _is_name(path.name) else ()
    if not versions:
        raise ModelError(f"{path} is neither a model's file nor a folder that holds one; `unfreeze export` makes it")
    return repository.path(path.name, versions[-1])


def read_published(path: Path) -> bytes:
    """Read a version's file, and hold it against the `SHA256SUMS` beside it, where there is one.

    Args:
        path: of the file.

    Raises:
        ModelError: there is no such file, or it is not the one that was published.
    """
    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ModelError(f"{path} has {path.stat().st_size:,} bytes; at most {_MOST_BYTES:,} are read")
        content = path.read_bytes()
        index = path.with_name(INDEX_FILE)
        listed = index.read_text(errors="replace") if index.is_file() else None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if listed is not None and f"{_sha256(content)}  {path.name}" not in listed.splitlines():
        raise ModelError(
            f"{path} is not the file that was published: its SHA-256, {_sha256(content)}, is not the one in "
            f"{INDEX_FILE}"
        )
    return content


def check_beside(path: Path, labels: tuple[str, ...]) -> None:
    """Hold what lies beside a model against what was published: what `SHA256SUMS` lists, and the labels for Triton.

    Args:
        path: of a `model.onnx`.
        labels: of its manifest.

    Raises:
        ModelError: a file is gone or another one, or `labels.txt`, which is the newest version's, names others.
    """
    index, listed = path.with_name(INDEX_FILE), path.parent.parent / "labels.txt"
    for line in index.read_text(errors="replace").splitlines() if index.is_file() else ():
        read_published(path.with_name(Path(line.partition("  ")[2]).name))
    if not index.is_file() or not listed.is_file():
        return
    newest = path == find_model(path.parent.parent)
    if newest and listed.read_text(errors="replace") != "".join(f"{label}\n" for label in labels):
        raise ModelError(f"{listed} does not name the labels of {path}: NVIDIA Triton would answer with wrong ones")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def check_name(name: str) -> str:
    """Refuse what is no model's name: anything that could leave the repository, hide in it, or mean something else.

    Raises:
        RepositoryError: with what a name may be made of.
    """
    if not _is_name(name):
        raise RepositoryError(
            f"{name!r:.200} is no model's name: use 1 to 128 letters, digits, '.', '_' and '-', beginning with a "
            f"letter or digit, and not ending in {ENCODED_SUFFIX!r}"
        )
    return name


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and not name.endswith(ENCODED_SUFFIX)


def config_pbtxt(name: str, manifest: Manifest) -> str:
    """Write what NVIDIA Triton needs to serve the model.

    Args:
        name: the model's.
        manifest: gives sizes, labels and the largest batch.

    Returns:
        A `ModelConfig` in protobuf's text format.
    """
    height, width, channels = manifest.preprocess.shape
    return (
        f'{_OURS}name: "{name}"\n'
        'backend: "onnxruntime"\n'
        f"max_batch_size: {manifest.max_batch}\n"
        f'input [{{ name: "{INPUT}" data_type: TYPE_UINT8 dims: [{height}, {width}, {channels}] }}]\n'
        f'output [{{ name: "{OUTPUT}" data_type: TYPE_FP32 dims: [{len(manifest.labels)}] '
        'label_filename: "labels.txt" }]\n'
        "dynamic_batching { }\n"
        "instance_group [{ count: 1 kind: KIND_AUTO }]\n"
        'model_warmup [{ name: "first" batch_size: 1 '
        f'inputs {{ key: "{INPUT}" value {{ data_type: TYPE_UINT8 dims: [{height}, {width}, {channels}] '
        "zero_data: true } } }]\n"
    )


def _is_somebodys(path: Path) -> bool:
    """Tell whether a configuration was written by hand: that one is kept."""
    return (
        path.suffix in (".pbtxt", ".yaml") and path.is_file() and not path.read_text(errors="replace").startswith(_OURS)
    )


@contextmanager
def _staging(root: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=root))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    _flush(path.parent)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
