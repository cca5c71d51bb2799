"""The column of a table that holds the images or their paths."""

from collections.abc import Sequence

from unfreeze.contract.counted import counted, first_few
from unfreeze.contract.errors import UnfreezeError

PATHS = ("path", "image", "url", "file", "filename")


def choose_column(file: str, names: Sequence[str], requested: str, usual: Sequence[str], holds: str) -> str:
    """Choose a column.

    Args:
        file: the table, for messages.
        names: of its columns.
        requested: name of the column, empty to use the first one with a usual name; case is ignored.
        usual: the usual names.
        holds: what is in the column, for messages.

    Raises:
        UnfreezeError: there is no such column, or more than one.
    """
    for wanted in (requested,) if requested else usual:
        found = [name for name in names if name == wanted] or [name for name in names if name.lower() == wanted.lower()]
        if len(found) > 1:
            raise UnfreezeError(f"{file} has {len(found)} columns named {found[0]!r}; rename one of them")
        if found:
            return found[0]
    missing = f"no column {requested!r}" if requested else f"no column of {holds} named {' or '.join(usual[:2])}"
    listed = first_few(map(repr, names))
    raise UnfreezeError(
        f"{file} has {missing}; it has {counted(len(names), 'column')}: {listed:.300}; name the column with --column"
    )
