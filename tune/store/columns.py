"""The names of columns."""

FEATURES, ACTIVATIONS, BORDER, ANSWERS = "features", "activations", "border", "answers"


def activations_column(position: int, dtype: str) -> str:
    """Return the column of the activations after `position` blocks."""
    return f"{ACTIVATIONS}.{position}.{dtype}"


def border_column(position: int) -> str:
    """Return the column of averages and maxima after `position` blocks."""
    return f"{BORDER}.{position}"


def position_in(column: str) -> int | None:
    """Return the number of blocks in the name of a column; None if it names none."""
    kind, *rest = column.split(".")
    return int(rest[0]) if kind in (ACTIVATIONS, BORDER) else None
