"""Find the files of a folder that somebody means when naming it."""

from pathlib import Path


def visible_files(folder: Path) -> list[Path]:
    """List the files in a folder and the folders below, in the order of their names, without what is hidden.

    Args:
        folder: which may be hidden itself.
    """
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
