"""The folder of an unfinished job: what it works on, and the blocks that are done."""

import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unfreeze.contract.errors import UnfreezeError
from unfreeze.contract.files import replacing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

JOB_FILE, LISTING_FILE, _BLOCKS = "job.json", "listing.jsonl", "blocks"


@dataclass(frozen=True, kw_only=True)
class WorkingFolder:
    """A folder beside the result of a job.

    Args:
        path: of the folder.
    """

    path: Path

    @property
    def listing(self) -> Path:
        """File of the images that the job works on."""
        return self.path / LISTING_FILE

    def block(self, number: int) -> Path:
        """Return the file of a block."""
        return self.path / _BLOCKS / f"{number:06}.parquet"

    def rows(self, number: int) -> int | None:
        """Return the number of rows of a finished block; None if it is not finished, or its file is damaged."""
        try:
            return int(pq.read_metadata(self.block(number)).num_rows)
        except (OSError, pa.ArrowException):
            return None

    def write(self, number: int, content: bytes) -> int:
        """Write a finished block; return the number of its rows.

        Raises:
            OSError: it cannot be written.
        """
        path = self.block(number)
        with replacing(path) as file:
            file.write(content)
        return int(pq.read_metadata(io.BytesIO(content)).num_rows)

    def fingerprint(self) -> dict[str, Any] | None:
        """Return what the blocks were computed from; None if there are none yet."""
        try:
            found = json.loads((self.path / JOB_FILE).read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def begin(self, fingerprint: Mapping[str, Any]) -> None:
        """Record what the blocks are computed from, before the first of them."""
        blocks = self.path / _BLOCKS
        shutil.rmtree(blocks, ignore_errors=True)
        blocks.mkdir()
        with replacing(self.path / JOB_FILE) as file:
            file.write(json.dumps(dict(fingerprint), indent=1).encode())

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.path, ignore_errors=True)


@contextmanager
def locked_working_folder(out: Path) -> Iterator[WorkingFolder]:
    """Create the working folder of a job and lock it against other processes.

    An unfinished job stays in it; a folder without one is deleted at the end.

    Args:
        out: where the result will be.

    Raises:
        UnfreezeError: it cannot be created, or another process works on the same result.
    """
    folder = WorkingFolder(path=working_path(out))
    try:
        folder.path.mkdir(exist_ok=True)
        descriptor = os.open(folder.path, os.O_RDONLY)
    except OSError as error:
        raise UnfreezeError(
            f"cannot write to {out.absolute().parent}: {error.strerror}; choose another --out"
        ) from error
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UnfreezeError(f"another process is working on {out}; wait for it, or choose another --out") from None
    try:
        yield folder
    finally:
        if folder.fingerprint() is None:
            folder.remove()
        os.close(descriptor)


def working_path(out: Path) -> Path:
    """Return the path of the working folder of a result: hidden, beside it."""
    return out.with_name(f".{out.name}.unfinished")
