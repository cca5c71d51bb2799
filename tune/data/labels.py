"""Compare class names that differ only in how they are written."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable


def spelling_key(label: str) -> str:
    """Map labels that differ only in case, surrounding spaces or Unicode normalization to one string."""
    plain = unicodedata.normalize("NFC", label).casefold().strip()
    return unicodedata.normalize("NFC", plain)


def spelling_groups(labels: Iterable[str]) -> list[list[str]]:
    """Group the labels that differ only in spelling.

    Args:
        labels: class names, unique.

    Returns:
        The groups of two or more.
    """
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for label in labels:
        groups[spelling_key(label)].append(label)
    return [group for group in groups.values() if len(group) > 1]


def quoted(label: str) -> str:
    """Quote a label; characters that only look like composed ones are escaped."""
    return repr(label) if unicodedata.is_normalized("NFC", label) else ascii(label)


def describe_unknown(unknown: Iterable[str], known: Iterable[str]) -> str:
    """List labels that are not known, each with the known label that differs from it only in spelling."""
    by_key = {spelling_key(label): label for label in known}
    return ", ".join(
        f"{label} (differs only in spelling from {quoted(by_key[key])})"
        if (key := spelling_key(label)) in by_key
        else label
        for label in unknown
    )
