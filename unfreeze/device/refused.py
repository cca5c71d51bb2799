"""Remember the versions that were refused, so that they are not received again and again."""

import json
import time
from pathlib import Path
from typing import Any

from unfreeze.contract.errors import ManifestError, RefusedVersionError
from unfreeze.contract.files import flush_folder, replacing
from unfreeze.contract.model.schema import loads

_MOST_ENTRIES = 100
_LONGEST_S = 7 * 86_400


class RefusedVersions:
    """A file with the versions that were refused and why.

    Args:
        path: of the file, which may not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def reason(self, identity: str) -> str | None:
        """Return why a version was refused; None if it was not.

        Args:
            identity: of the version's content.
        """
        entry = self._entries().get(identity)
        if not isinstance(entry, dict) or "reason" not in entry:
            return None
        until = entry.get("until")
        if isinstance(until, int | float) and not 0 <= until - time.time() <= _LONGEST_S:  # or the clock was set
            return None
        return str(entry["reason"])

    def add(self, identity: str, version: int, error: RefusedVersionError) -> None:
        """Remember a version.

        Args:
            identity: of its content.
            version: its number.
            error: why it was refused, and for how long.
        """
        until = None if error.retry_s is None else round(time.time() + error.retry_s)
        entries = self._entries() | {identity: {"version": version, "reason": str(error), "until": until}}
        self._write(dict(list(entries.items())[-_MOST_ENTRIES:]))

    def remove(self, identity: str) -> None:
        """Forget a version."""
        entries = self._entries()
        if entries.pop(identity, None) is not None:
            self._write(entries)

    def _entries(self) -> dict[str, Any]:
        try:
            found = loads(self._path.read_bytes())
        except (OSError, ManifestError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, entries: dict[str, Any]) -> None:
        with replacing(self._path) as file:
            file.write(json.dumps(entries, indent=2).encode())
        flush_folder(self._path.parent)
