"""Numbers and lists in messages."""

from collections.abc import Iterable

SHOWN = 5


def counted(count: int, noun: str, plural: str = "") -> str:
    """Write a number with its noun: "1 file", "2,000 files"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def first_few(items: Iterable[str], separator: str = ", ") -> str:
    """Join at most five items, and say how many more there are."""
    every = list(items)
    more = [f"and {len(every) - SHOWN:,} more"] if len(every) > SHOWN else []
    return separator.join([*every[:SHOWN], *more])
