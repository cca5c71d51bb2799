"""What a person has decided, in a file that only grows: a crash loses nothing."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from unfreeze.contract.errors import UnfreezeError
from unfreeze.review.recorded import RecordedImage

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LABEL, NONE, SKIP, UNDO = "label", "none", "skip", "undo"
_LOG, _LOCK = "decisions.jsonl", ".review.lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What a person has decided about an image.

    Args:
        kind: LABEL, NONE (it belongs to no class) or SKIP (not now).
        label: of LABEL; else empty.
    """

    kind: str
    label: str = ""


class Decisions:
    """The decisions about the images of one model; use it inside of `locked`.

    Args:
        folder: of the model.

    Attributes:
        mentioned: digests of all images about which there ever was a decision.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _LOG
        self.mentioned: set[str] = set()
        self._history: list[tuple[str, Decision]] = []
        self._read()

    def latest(self) -> dict[str, Decision]:
        """Return the decision about each image, by digest."""
        return dict(self._history)

    def add(self, image: RecordedImage, decision: Decision) -> None:
        """Write a decision to disk.

        Raises:
            OSError: it cannot be written; it does not count then.
        """
        self._append(image.digest, decision.kind, decision.label, predicted=image.label, version=image.version)
        self._history.append((image.digest, decision))

    def undo(self) -> str | None:
        """Take back the latest decision; return the image's digest, or None if there is no decision.

        Raises:
            OSError: that cannot be written; the decision stays.
        """
        if not self._history:
            return None
        digest, _ = self._history[-1]
        self._append(digest, UNDO, "")
        self._history.pop()
        return digest

    def _read(self) -> None:
        """Read the file; lines that a crash has cut off are ignored."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        if content and not content.endswith(b"\n"):
            with self._path.open("ab") as file:
                file.write(b"\n")
        for line in content.splitlines():
            try:
                entry = json.loads(line)
                digest, kind, label = str(entry["image"]), entry["decision"], str(entry["label"])
            except (ValueError, KeyError, TypeError):
                continue
            self.mentioned.add(digest)
            if kind in (LABEL, NONE, SKIP):
                self._history.append((digest, Decision(kind=kind, label=label)))
            elif kind == UNDO and self._history and self._history[-1][0] == digest:
                self._history.pop()

    def _append(self, digest: str, kind: str, label: str, **more: str) -> None:
        time = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        line = json.dumps({"time": time, "image": digest, "decision": kind, "label": label, **more})
        with self._path.open("ab") as file:
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder for one review at a time; the lock ends with the process, however that ends.

    Raises:
        UnfreezeError: another process reviews it.
    """
    with (folder / _LOCK).open("a+") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise UnfreezeError(
                    f"{folder} is being reviewed already, by process {file.read(100).strip() or 'unknown'}; open the "
                    "address that it has printed: several people can use it at the same time"
                ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
