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
from unfreeze.contract.files import flush_folder, write_durably
from unfreeze.contract.model.kserve import kserve_yaml
from unfreeze.contract.model.manifest import Manifest
from unfreeze.contract.model.triton_config import config_pbtxt

MODEL_FILE, INDEX_FILE, SIGNATURE_FILE = "model.onnx", "SHA256SUMS", "model.sig"
ENCODED_SUFFIX = ".encoded"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_STAGING_PREFIX = ".staging-"
_MOST_ATTEMPTS = 100
_MOST_BYTES = 2**31  # protobuf's limit, and so ONNX's
_LAST_VERSION = 999_999_999
_log = logging.getLogger(__name__)
# A file that begins with it is overwritten by the next export; one without it was edited and is kept.
_GENERATED = "# Written by unfreeze export. Remove this line to keep your changes to this file.\n"
_GENERATED_BEFORE = "# Written by unfreeze export; without this line it would be kept as it is.\n"


class ModelRepository:
    """A folder of models with numbered versions.

    Args:
        root: the folder; `publish` creates it if it does not exist.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def models(self) -> dict[str, tuple[int, ...]]:
        """List the models and their versions, oldest first.

        A folder that cannot be read is left out, and a warning is logged.

        Raises:
            RepositoryError: the folder does not exist.
        """
        if not self.root.is_dir():
            raise RepositoryError(f"{self.root} is not a folder; `unfreeze export` creates a model repository")
        found: dict[str, tuple[int, ...]] = {}
        for entry in sorted(self.root.iterdir()):
            try:
                if _is_name(entry.name) and entry.is_dir() and (versions := self.versions(entry.name)):
                    found[entry.name] = versions
            except OSError as error:
                _log.warning("%s cannot be read and is left out: %s", entry, error.strerror)
        return found

    def versions(self, name: str) -> tuple[int, ...]:
        """List the versions of a model that have a `model.onnx`, oldest first; none if there is no such model."""
        return tuple(sorted(number for number in self._numbers(name) if self.path(name, number).is_file()))

    def _numbers(self, name: str) -> list[int]:
        """List all entries that are named like a version, whatever they contain."""
        folder = self.root / check_name(name)
        entries = list(folder.iterdir()) if folder.is_dir() else []
        return [int(entry.name) for entry in entries if re.fullmatch(r"[1-9][0-9]{0,8}", entry.name)]

    def path(self, name: str, version: int) -> Path:
        """Return the path of a version's `model.onnx`."""
        return self.root / check_name(name) / str(version) / MODEL_FILE

    def check_writable(self, name: str) -> None:
        """Check that a model can be published, before minutes of work are spent on it.

        Args:
            name: the model's name.

        Raises:
            RepositoryError: the name is not valid, or the folder cannot be written.
        """
        model = self.root.absolute() / check_name(name)
        existing = next(path for path in (model, *model.parents) if path.is_symlink() or path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise RepositoryError(f"cannot publish {name} into {self.root}: {existing} is not a writable folder")

    def publish(
        self,
        name: str,
        model: bytes,
        manifest: Manifest,
        more: Mapping[str, bytes] | None = None,
        sign: Callable[[Path], bytes] | None = None,
    ) -> int:
        """Add a version, atomically.

        All files are written and flushed to disk under a hidden name and then renamed, so that a reader never sees a
        partial model, and a crash leaves the earlier versions unchanged. A `config.pbtxt` or `kserve.yaml` that was
        edited is kept.

        Args:
            name: the model's name: letters, digits, `.`, `_` and `-`.
            model: the content of `model.onnx`.
            manifest: the model's, from which the files next to the versions are written.
            more: other files of the version, by name.
            sign: creates a signature of the version's folder, which is added to it.

        Returns:
            The number of the new version: one more than the newest.

        Raises:
            RepositoryError: the name is not valid, or the folder cannot be written.
        """
        check_name(name)
        version = {MODEL_FILE: model, **(more or {})}
        version[INDEX_FILE] = "".join(f"{_sha256(content)}  {file}\n" for file, content in version.items()).encode()
        beside = {
            "config.pbtxt": (_GENERATED + config_pbtxt(name, manifest)).encode(),
            "kserve.yaml": (_GENERATED + kserve_yaml(name)).encode(),
            "labels.txt": "".join(f"{label}\n" for label in manifest.labels).encode(),
        }
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with _staging(self.root) as staging:
                return self._add_version(name, version, beside, staging, sign)
        except OSError as error:
            raise RepositoryError(f"cannot publish {name} into {self.root}: {error}; nothing was changed") from error

    def _add_version(
        self,
        name: str,
        version: dict[str, bytes],
        beside: dict[str, bytes],
        staging: Path,
        sign: Callable[[Path], bytes] | None,
    ) -> int:
        for _ in range(_MOST_ATTEMPTS):
            number = max(self._numbers(name), default=0) + 1
            if number > _LAST_VERSION:
                raise OSError(f"{name} already has version {number - 1:,}, the highest number possible")
            staged = staging / name
            files = {f"{number}/{file}": content for file, content in version.items()} | beside
            for file, content in files.items():
                write_durably(staged / file, content)
            if sign is not None:
                write_durably(staged / str(number) / SIGNATURE_FILE, sign(staged / str(number)))
            if self._rename_into_place(staged, number):
                return number
            shutil.rmtree(staged)
        raise OSError(f"other processes published {_MOST_ATTEMPTS} versions at the same time; try again")

    def _rename_into_place(self, staged: Path, version: int) -> bool:
        """Rename a staged version; return False if another process took its number."""
        model, numbered = self.root / staged.name, str(version)
        try:
            if model.is_dir():
                (staged / numbered).rename(model / numbered)
            else:
                staged.rename(model)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        try:
            for file in staged.iterdir() if staged.is_dir() else ():
                if file.is_file() and not _was_edited(model / file.name):
                    file.replace(model / file.name)
            flush_folder(model)
            flush_folder(self.root)
        except OSError as error:
            raise RepositoryError(
                f"{model.name} version {version} is published, but the files next to it could not be written: {error}"
            ) from error
        return True


def find_model(path: Path) -> Path:
    """Find a `model.onnx` by its own path, its version's folder, or its model's folder, which means the newest version.

    Args:
        path: of a file or a folder.

    Raises:
        ModelError: there is none.
    """
    if path.is_file():
        return path
    path = path if path.name not in ("", "..") else path.resolve()  # "." has no name, but the resolved folder has one
    if (path / MODEL_FILE).is_file():
        return path / MODEL_FILE
    repository = ModelRepository(path.parent)
    versions = repository.versions(path.name) if _is_name(path.name) else ()
    if not versions:
        raise ModelError(f"{path} is neither a model file nor a folder with one; `unfreeze export` creates one")
    return repository.path(path.name, versions[-1])


def read_published(path: Path) -> bytes:
    """Read a version's file, and check it against the `SHA256SUMS` next to it, if there is one.

    Args:
        path: of the file.

    Raises:
        ModelError: there is no such file, it is too large, or it has changed since it was published.
    """
    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ModelError(f"{path} has {path.stat().st_size:,} bytes; at most {_MOST_BYTES:,} are allowed")
        content = path.read_bytes()
        index = path.with_name(INDEX_FILE)
        listed = index.read_text(errors="replace") if index.is_file() else None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if listed is not None and f"{_sha256(content)}  {path.name}" not in listed.splitlines():
        raise ModelError(
            f"{path} is not the file that was published: its SHA-256, {_sha256(content)}, is not in {INDEX_FILE}"
        )
    return content


def check_beside(path: Path, labels: tuple[str, ...]) -> None:
    """Check the files next to a model: those that `SHA256SUMS` lists, and the labels for Triton.

    Args:
        path: of a `model.onnx`.
        labels: of its manifest.

    Raises:
        ModelError: a file is missing or was changed, or `labels.txt`, which belongs to the newest version, has other
            labels.
    """
    index, labels_file = path.with_name(INDEX_FILE), path.parent.parent / "labels.txt"
    for line in index.read_text(errors="replace").splitlines() if index.is_file() else ():
        read_published(path.with_name(Path(line.partition("  ")[2]).name))
    if not index.is_file() or not labels_file.is_file():
        return
    is_newest = path == find_model(path.parent.parent)
    if is_newest and labels_file.read_text(errors="replace") != "".join(f"{label}\n" for label in labels):
        raise ModelError(f"{labels_file} does not have the labels of {path}: NVIDIA Triton would return wrong ones")


def check_name(name: str) -> str:
    """Reject an invalid model name: one that leaves the repository, is hidden in it, or has another meaning there.

    Returns:
        The name.

    Raises:
        RepositoryError: it is not valid; the message states the rules.
    """
    if not _is_name(name):
        raise RepositoryError(
            f"{name!r:.200} is not a valid model name: use 1 to 128 letters, digits, '.', '_' and '-', beginning with "
            f"a letter or digit, and not ending in {ENCODED_SUFFIX!r}"
        )
    return name


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and not name.endswith(ENCODED_SUFFIX)


def _was_edited(path: Path) -> bool:
    """Return whether a configuration was edited or written by hand, so that it must be kept."""
    if path.suffix not in (".pbtxt", ".yaml") or not path.is_file():
        return False
    return not path.read_text(errors="replace").startswith((_GENERATED, _GENERATED_BEFORE))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """Create a hidden folder, which is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=root))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
