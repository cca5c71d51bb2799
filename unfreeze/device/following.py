"""Take a new version of a model without a restart."""

from pathlib import Path

from unfreeze.contract.errors import UnfreezeError
from unfreeze.contract.files import fingerprint
from unfreeze.device.opening import FileState, LoadedVersion, load_version
from unfreeze.device.terminal import say
from unfreeze.device.versions import VersionFile, version_files
from unfreeze.serve.runtimes.golden import verify_answers


class FollowedModel:
    """The version in use, which changes when the folder of the model says so.

    A new version that cannot be loaded or fails its golden images is reported once, and the old one stays.

    Args:
        path: of the model's folder or file.
        loaded: the version that is loaded already.
        threads: CPU threads; 0 for one per core.
        cache: see `unfreeze.device.opening.open_model`.
    """

    def __init__(self, path: Path, loaded: LoadedVersion, *, threads: int, cache: bool) -> None:
        self.loaded = loaded
        self._path, self._threads, self._cache = path, threads, cache
        self._seen = (loaded.version, loaded.state)
        self._refused: tuple[VersionFile, FileState] | None = None

    def refresh(self) -> LoadedVersion:
        """Load the version in use if it is another one than before.

        Returns:
            The version to answer with.
        """
        try:
            wanted = version_files(self._path)[0]
        except (UnfreezeError, OSError):  # the folder is unreadable or empty for the moment
            return self.loaded
        found = (wanted, fingerprint(wanted.path))
        if found in (self._seen, self._refused):
            return self.loaded
        try:
            new = load_version(wanted, threads=self._threads, cache=self._cache)
            verify_answers(new.model, str(wanted.path))
        except UnfreezeError as error:
            say(f"{wanted} is refused, {self.loaded.version} stays: {error}")
            self._refused = found
            return self.loaded
        say(f"{wanted} replaces {self.loaded.version}")
        self.loaded.model.close()
        self.loaded, self._seen = new, (wanted, new.state)
        return new
