"""Results of earlier comparisons, stored in the user's cache folder as one JSON file each."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfreeze.contract.files import replacing
from unfreeze.tune.store.folder import delete, mark_used, store_folder


def comparisons_folder() -> Path:
    """Return the folder of the results, beside that of the feature store."""
    return store_folder().with_name("compare")


def list_results(folder: Path) -> tuple[Path, ...]:
    """Return the files of the results; none if the folder cannot be read."""
    return tuple(sorted(folder.glob("*.json")))


def clear_results(folder: Path, *, unused_since: float) -> int:
    """Delete the results that were not used after a time, in seconds since the epoch.

    Returns:
        The number of bytes that were freed.
    """
    freed = 0
    for path in list_results(folder):
        try:
            status = path.stat()
        except OSError:  # another process has deleted it
            continue
        if status.st_mtime < unused_since and delete(path):
            freed += status.st_size
    return freed


@dataclass(frozen=True, kw_only=True)
class StoredResults:
    """Results by what they depend on.

    Args:
        folder: of the files, created when the first result is stored.
        fresh: ignore what earlier comparisons stored.
    """

    folder: Path
    fresh: bool = False

    def load(self, kind: str, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a result; None if there is none, or its file is damaged.

        Args:
            kind: of the result, part of the file's name.
            key: everything that the result depends on, as plain types.
        """
        if self.fresh:
            return None
        path = self._path(kind, key)
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(document, dict) or document.get("key") != _plain(key):
            return None
        mark_used(path)
        result: dict[str, Any] = document["result"]
        return result

    def store(self, kind: str, key: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Store a result; a folder that cannot be written costs only time later."""
        content = json.dumps({"key": _plain(key), "result": _plain(result)}, indent=1).encode()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._path(kind, key)) as file:
                file.write(content)
        except OSError:
            return

    def _path(self, kind: str, key: Mapping[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(_plain(key), sort_keys=True).encode()).hexdigest()
        return self.folder / f"{kind}-{digest[:32]}.json"


def _plain(value: Mapping[str, Any]) -> Any:
    """Return what JSON makes of a value: tuples become lists."""
    return json.loads(json.dumps(value))
