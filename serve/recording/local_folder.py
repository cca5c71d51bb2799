"""Recorded images in a folder of this machine, which several processes may write."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from unfreeze.contract.errors import OptionsError
from unfreeze.serve.recording.storage import StoredImage

try:
    import fcntl
except ImportError:  # Windows, where one process serves
    fcntl = None  # type: ignore[assignment]

_ABANDONED_S = 3600.0
_LOCK, _USED, _README = ".lock", ".used.json", "README.txt"
_EXPLANATION = """Images that `unfreeze serve --record` has kept, with what was answered.

MODEL/VERSION/aa/SHA256.jpg    an image as it was received; the name is the SHA-256 digest of its bytes
MODEL/VERSION/aa/SHA256.json   when it was answered, with which labels, and why it was kept

To look at them and to correct the labels: unfreeze review .
To delete one image: delete its two files, in every VERSION. The server notices it.
"""


class LocalFolder:
    """Implements `Storage`.

    Args:
        root: the folder.
    """

    reads_fast = True

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def prepare(self) -> None:
        """Create the folder, for its owner alone, and test that it can be written.

        Raises:
            OptionsError: it cannot.
        """
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.write(_README, _EXPLANATION.encode())
            with self.locked():
                pass
        except OSError as error:
            raise OptionsError(
                f"--record {self._root} cannot be written: {error.strerror or error}; give a folder that the server's "
                "user can write to"
            ) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other processes of the server."""
        descriptor = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def read(self, path: str) -> bytes | None:
        """Read a file; None if there is none."""
        try:
            return (self._root / path).read_bytes()
        except FileNotFoundError:
            return None

    def exists(self, path: str) -> bool:
        """Return whether there is a file."""
        return (self._root / path).is_file()

    def write(self, path: str, content: bytes) -> None:
        """Write a file under another name, and rename it."""
        target = self._root / path
        temporary = target.with_name(f".{target.name}.{uuid4().hex}.new")
        try:
            try:
                temporary.write_bytes(content)
            except FileNotFoundError:
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_bytes(content)
            temporary.replace(target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

    def delete(self, path: str) -> None:
        """Delete a file, if there is one."""
        (self._root / path).unlink(missing_ok=True)

    def images(self) -> Iterator[StoredImage]:
        """List the images; deletes abandoned temporary files, and descriptions whose image somebody has deleted."""
        for folder in self._root.glob("*/*/??"):
            with suppress(FileNotFoundError, NotADirectoryError):
                yield from self._images_of(folder)

    def used(self) -> int | None:
        """Return the bytes of all images, as last noted by any process."""
        try:
            return int(json.loads((self._root / _USED).read_bytes())["bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def note_used(self, size: int) -> None:
        """Note the bytes of all images for all processes."""
        self.write(_USED, json.dumps({"bytes": size}).encode())

    def _images_of(self, folder: Path) -> Iterator[StoredImage]:
        with os.scandir(folder) as entries:
            found = {entry.name: entry.stat() for entry in entries}
        hidden = {name for name in found if name.startswith(".")}
        documents = {name for name in found if name.endswith(".json")} - hidden
        images = {Path(name).stem: name for name in found.keys() - hidden - documents}
        for name in hidden:
            if time.time() - found[name].st_mtime > _ABANDONED_S:
                (folder / name).unlink(missing_ok=True)
        for name in documents:
            if Path(name).stem not in images:
                (folder / name).unlink(missing_ok=True)
        at = folder.relative_to(self._root).as_posix()
        for stem, name in images.items():
            beside = found.get(f"{stem}.json")
            yield StoredImage(
                path=f"{at}/{name}",
                document=None if beside is None else f"{at}/{stem}.json",
                size=found[name].st_size + (0 if beside is None else beside.st_size),
                time=found[name].st_mtime,
            )
