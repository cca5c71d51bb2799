"""Integers in headers and queries."""


def parse_number(text: str, *, most_digits: int) -> int | None:
    """Parse an integer that a caller sent, which is not negative; None if it is none, or has too many digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= most_digits else None
