"""Collect the files of a version in a hidden folder, from which one rename gives them their place."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from unfreeze.contract.files import flush_folder, sha256_of, write_durably
from unfreeze.contract.model.repository import INDEX_FILE, SIGNATURE_FILE
from unfreeze.device.download import Download, Received
from unfreeze.device.offered import OfferedVersion
from unfreeze.device.sources import Source


class Staging:
    """Unfinished files in `parts`, whole ones in `staged/VERSION`; both stay for the next pull if this one ends early.

    Args:
        state: the hidden folder.
    """

    def __init__(self, state: Path) -> None:
        self._staged, self._parts = state / "staged", state / "parts"

    def collect(self, source: Source, offered: OfferedVersion, here: Path) -> tuple[Path, Received]:
        """Stage all files of a version; those that are on this device already are not received again.

        Args:
            source: of the model.
            offered: the version.
            here: the version's own folder, in which it may be, damaged or not in use.

        Returns:
            The staged folder, and what was received.

        Raises:
            UnfreezeError: see `Download.run`.
        """
        digests, folder = offered.digests(), self._staged / str(offered.number)
        folder.mkdir(parents=True, exist_ok=True)
        self._parts.mkdir(exist_ok=True)
        self._discard_others(folder, digests)
        received = resumed = 0
        for name, digest in digests.items():
            if _has_digest(folder / name, digest):
                resumed += (folder / name).stat().st_size
            elif _has_digest(here / name, digest):
                write_durably(folder / name, (here / name).read_bytes())
            else:
                download = Download(source, f"{offered.number}/{name}", digest, self._parts)
                got = download.run()
                download.file.replace(folder / name)
                received, resumed = received + got.bytes, resumed + got.resumed
        write_durably(folder / INDEX_FILE, offered.index)
        if offered.signature is not None:
            write_durably(folder / SIGNATURE_FILE, offered.signature)
        flush_folder(folder)
        return folder, Received(bytes=received, resumed=resumed)

    def clear(self) -> None:
        """Delete what is staged."""
        for folder in (self._staged, self._parts):
            shutil.rmtree(folder, ignore_errors=True)

    def _discard_others(self, folder: Path, digests: Mapping[str, str]) -> None:
        """Delete what belongs to another version, or to another content of this one."""
        for other in set(self._staged.iterdir()) - {folder}:
            shutil.rmtree(other)
        for file in folder.iterdir():
            if file.name not in digests:
                file.unlink()
        for part in self._parts.iterdir():
            if part.stem not in digests.values():
                part.unlink()


def _has_digest(file: Path, digest: str) -> bool:
    return file.is_file() and sha256_of(file) == digest
