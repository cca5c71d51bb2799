"""Read what earlier versions wrote: the keys of schema 2 under their current names."""

from collections.abc import Mapping
from typing import Any

# By the path of the object, `*` for each item of a list: old and new name of its keys.
_RENAMED_SINCE_2: Mapping[tuple[str, ...], Mapping[str, str]] = {
    ("provenance",): {"pictures": "images"},
    ("proof",): {"pictures": "images"},
    ("golden", "*"): {"picture": "image"},
    ("candidates", "*", "proof"): {"pictures": "images"},
}


def upgraded_from_2(document: Any) -> Any:
    """Rename the keys of a manifest of schema 2, or of a `run.json` that was written with it.

    Args:
        document: parsed JSON, which is not changed. Parts with an unexpected structure are left to the reader, which
            rejects them.

    Returns:
        A copy with the current names; equal to the document if it has them already.
    """
    for path, names in _RENAMED_SINCE_2.items():
        document = _renamed(document, path, names)
    return document


def _renamed(value: Any, path: tuple[str, ...], names: Mapping[str, str]) -> Any:
    if not path:
        if not isinstance(value, dict):
            return value
        return {_new_name(key, value, names): item for key, item in value.items()}
    first, *others = path
    if first == "*":
        return [_renamed(item, tuple(others), names) for item in value] if isinstance(value, list) else value
    if not isinstance(value, dict) or first not in value:
        return value
    return value | {first: _renamed(value[first], tuple(others), names)}


def _new_name(key: str, holder: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return a key's current name, unless that is taken: then the old one stays, and is later rejected as unknown."""
    new = names.get(key, key)
    return key if new in holder else new
