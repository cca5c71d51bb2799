"""Registrations of shared memory regions that the processes of a server have in common: one small file for each."""

import dataclasses
import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from unfreeze.serve.protocol.shared_memory import Region


class RegionFolder:
    """Regions by name, in a folder that all processes can read and write.

    Args:
        folder: created if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder

    def get(self, name: str) -> Region | None:
        """Return the region of a name, if there is one."""
        return _read(self._file(name))

    def add(self, region: Region) -> bool:
        """Add a region unless there is one of its name; return whether it was added."""
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".") as file:
            file.write(json.dumps(dataclasses.asdict(region)).encode())
            file.flush()
            try:
                os.link(file.name, self._file(region.name))  # appears whole, and for one process only
            except FileExistsError:
                return False
        return True

    def remove(self, name: str) -> None:
        """Forget a region, if there is one of this name."""
        self._file(name).unlink(missing_ok=True)

    def all(self) -> list[Region]:
        """Return all regions, sorted by name."""
        files = [file for file in self._folder.iterdir() if not file.name.startswith(".")]
        found = [region for file in files if (region := _read(file)) is not None]
        return sorted(found, key=lambda region: region.name)

    def _file(self, name: str) -> Path:
        return self._folder / hashlib.sha256(name.encode()).hexdigest()


def _read(file: Path) -> Region | None:
    with suppress(FileNotFoundError):  # it may be forgotten meanwhile
        values = json.loads(file.read_bytes())
        return Region(**values | {"identity": tuple(values["identity"])})
    return None
