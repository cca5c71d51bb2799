"""The file `NAME/traffic.json` of a model in the repository."""

import logging
from pathlib import Path

from unfreeze.contract.errors import ManifestError
from unfreeze.contract.files import fingerprint, replacing
from unfreeze.contract.traffic import TRAFFIC_FILE, TrafficSettings, traffic_from_json

_Fingerprint = tuple[int, int, int] | None
_log = logging.getLogger(__name__)


class TrafficFiles:
    """The files of all models; its methods block.

    Args:
        root: folder of the repository.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._read: dict[str, _Fingerprint] = {}
        self._accepted: dict[str, _Fingerprint] = {}
        self._problems: dict[str, tuple[_Fingerprint, str]] = {}

    def has_changed(self, name: str) -> bool:
        """Check whether a model's file differs from the one that was accepted last."""
        return fingerprint(self._path(name)) != self._accepted.get(name)

    def read(self, name: str) -> TrafficSettings | None:
        """Read the file of a model.

        Returns:
            The settings; None if there is no file.

        Raises:
            ManifestError: it cannot be read, or is not valid.
        """
        self._read[name] = fingerprint(self._path(name))
        try:
            content = self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ManifestError(f"it cannot be read: {error.strerror}") from None
        return traffic_from_json(content)

    def accept(self, name: str) -> None:
        """Remember that the file, as it was read last, is in force."""
        self._accepted[name] = self._read.get(name)
        self._problems.pop(name, None)

    def reject(self, name: str, problem: str) -> None:
        """Log why a file is not in force, once; it is tried again at the next check."""
        told = self._read.get(name), problem
        if self._problems.get(name) != told:
            self._problems[name] = told
            _log.error("%s is not in force, and what was before stays: %s", self._path(name), problem)

    def write(self, name: str, settings: TrafficSettings) -> bool:
        """Replace the file of a model, atomically.

        Returns:
            Whether that was possible; if not, the reason is logged.
        """
        try:
            with replacing(self._path(name)) as file:
                file.write(settings.to_json().encode())
        except OSError as error:
            _log.warning("%s cannot be written, so a restart forgets it: %s", self._path(name), error.strerror)
            return False
        self._read[name] = fingerprint(self._path(name))
        self.accept(name)
        return True

    def _path(self, name: str) -> Path:
        return self._root / name / TRAFFIC_FILE
