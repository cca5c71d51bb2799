"""Take a new version of a model, so that a whole one is in use at every moment, whatever happens.

What is not finished is in the hidden folder `.pull`. A version appears under its number by one rename, and comes into
use by another, of the file `current`. Files and folders are flushed to disk before each.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from unfreeze.contract.errors import ModelError, OptionsError, RefusedVersionError, UnfreezeError
from unfreeze.contract.files import flush_folder
from unfreeze.contract.model.model_file import read_model
from unfreeze.contract.model.repository import INDEX_FILE, MODEL_FILE
from unfreeze.device.download import Received
from unfreeze.device.lock import locked
from unfreeze.device.offered import OfferedVersion, find_wanted, read_offered
from unfreeze.device.optimized import FOLDER as OPTIMIZED
from unfreeze.device.optimized import discard_others
from unfreeze.device.refused import RefusedVersions
from unfreeze.device.signature import check_signed
from unfreeze.device.sources import Source, open_source
from unfreeze.device.staging import Staging
from unfreeze.device.trial import try_model
from unfreeze.device.versions import VersionFile, list_versions, read_current, version_files, write_current

STATE = ".pull"


@dataclass(frozen=True, kw_only=True)
class PullOptions:
    """What `pull` does.

    Args:
        source: the model's folder: a path, or a URL.
        into: the model's folder on this device; created if missing.
        public_key: PEM file of the key that a version must be signed with; None accepts unsigned ones.
        channel: name of the file in the source that names the version; None for `stable`, or the newest without it.
        allow_downgrade: take an older version than the current one, if the channel names it.
        retry_bad: try a version again that was refused before.

    Raises:
        OptionsError: the key is missing, or the source is the folder on this device, where old versions are deleted.
    """

    source: str
    into: Path
    public_key: Path | None = None
    channel: str | None = None
    allow_downgrade: bool = False
    retry_bad: bool = False

    def __post_init__(self) -> None:
        """Validate once, at construction."""
        if self.public_key is not None and not self.public_key.is_file():
            raise OptionsError(f"--public-key: no such file: {self.public_key}")
        if _is_same_folder(self.source, self.into):
            raise OptionsError(
                f"--into {self.into} is the source itself, where pull would delete old versions; give another folder"
            )


def _is_same_folder(source: str, folder: Path) -> bool:
    try:
        return folder.samefile(source)
    except (OSError, ValueError):  # one is missing, or is a URL
        return False


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What a pull has done.

    Args:
        installed: whether the version in use is another one now.
        version: number of the version in use.
        previous: number of the one before it; None without one.
        bytes: received now, of the version's large files.
        resumed: bytes received by an earlier pull that did not end.
    """

    installed: bool
    version: int
    previous: int | None
    bytes: int = 0
    resumed: int = 0


def pull(options: PullOptions) -> Pulled:
    """Take the version that the source offers, if it is not the one in use.

    Raises:
        SourceError: the source cannot be read.
        RefusedVersionError: the version was changed, is not signed, or fails its golden images on this device.
        UnfreezeError: an older version was offered, another pull is running, or the disk is full.
    """
    folder, source = options.into, open_source(options.source)
    state = folder / STATE
    state.mkdir(parents=True, exist_ok=True)
    with locked(state / "lock"):
        return _Pull(options, folder, source).run()


class _Pull:
    def __init__(self, options: PullOptions, folder: Path, source: Source) -> None:
        self.options, self.folder, self.source = options, folder, source
        self.state = folder / STATE
        self.staging = Staging(self.state)
        self.refused = RefusedVersions(self.state / "refused.json")
        self.used = [file.number for file in _usable(folder) if file.number is not None]

    def run(self) -> Pulled:
        shutil.rmtree(self.state / "trash", ignore_errors=True)
        wanted = find_wanted(self.source, self.options.channel)
        current, previous = (*self.used, None, None)[:2]
        if current is None or wanted.number > current:
            return self._install(wanted.number, current)
        if wanted.number == current and _digest(self.folder / str(current) / MODEL_FILE) is None:
            return self._install(current, previous)
        if wanted.number < current and wanted.chosen:
            if not self.options.allow_downgrade:
                raise UnfreezeError(
                    f"the channel names version {wanted.number}, and {current} is in use: --allow-downgrade takes the "
                    "older one"
                )
            return self._install(wanted.number, current)
        self._settle(current, previous)
        return Pulled(installed=False, version=current, previous=previous)

    def _install(self, number: int, previous: int | None) -> Pulled:
        received = self._take(read_offered(self.source, number))
        self._settle(number, previous)
        return Pulled(installed=True, version=number, previous=previous, bytes=received.bytes, resumed=received.resumed)

    def _take(self, offered: OfferedVersion) -> Received:
        """Receive and try a version, and give it its place; remember it if it is refused."""
        identity, key = offered.identity(self.options.public_key), self.options.public_key
        reason = self.refused.reason(identity)
        if reason is not None and not self.options.retry_bad:
            raise RefusedVersionError(
                f"version {offered.number} was refused before, and is not tried again without --retry-bad: {reason}"
            )
        place = self.folder / str(offered.number)
        try:
            if key is not None:
                index = hashlib.sha256(offered.index).hexdigest()
                check_signed(offered.signature, key, offered.number, offered.digests() | {INDEX_FILE: index})
            staged, received = self.staging.collect(self.source, offered, place)
            try_model(staged / MODEL_FILE, self.folder / OPTIMIZED)
        except RefusedVersionError as error:
            self.refused.add(identity, offered.number, error)
            self.staging.clear()
            raise RefusedVersionError(f"version {offered.number} is refused: {error}") from error
        self._discard(offered.number)  # what is there is not in use, or damaged
        staged.rename(place)
        flush_folder(self.folder)
        self.refused.remove(identity)
        return received

    def _settle(self, current: int, previous: int | None) -> None:
        """Bring a version into use, and delete all but it and the one before."""
        if read_current(self.folder) != tuple(number for number in (current, previous) if number is not None):
            write_current(self.folder, current, previous)
        self.staging.clear()
        others = set(list_versions(self.folder)) - {current, previous}
        for number in others:
            self._discard(number)
        if others:
            kept = [self.folder / str(number) / MODEL_FILE for number in (current, previous) if number is not None]
            discard_others(self.folder, {digest for path in kept if (digest := _digest(path))})

    def _discard(self, number: int) -> None:
        """Delete a version: first it loses its name, so that no part of it is taken for a version."""
        if (self.folder / str(number)).exists():
            trash = self.state / "trash"
            trash.mkdir(exist_ok=True)
            (self.folder / str(number)).rename(trash / str(number))
            shutil.rmtree(trash, ignore_errors=True)


def _usable(folder: Path) -> list[VersionFile]:
    try:
        return version_files(folder)
    except ModelError:
        return []


def _digest(model: Path) -> str | None:
    """Return the digest in a model's manifest; None if the file is damaged."""
    try:
        return read_model(model).manifest.sha256
    except ModelError:
        return None
