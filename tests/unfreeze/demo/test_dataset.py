"""Writing the demo's images: the folder is complete or absent, and nobody else's folder is touched."""

from pathlib import Path

import pytest

from unfreeze.contract.errors import DataError
from unfreeze.demo.dataset import write_folder


def _write(folder: Path) -> None:
    (folder / "image.png").write_bytes(b"image")


def _fail(folder: Path) -> None:
    _write(folder)
    raise KeyboardInterrupt


def test_same_images_are_not_written_again(tmp_path: Path) -> None:
    """A folder with the same description is left unchanged."""
    write_folder(tmp_path / "out", {"count": 1}, _write)
    write_folder(tmp_path / "out", {"count": 1}, _fail)
    assert (tmp_path / "out" / "image.png").read_bytes() == b"image"


def test_other_images_replace_the_folder(tmp_path: Path) -> None:
    """A folder with another description is replaced, and files of the previous one are gone."""
    write_folder(tmp_path / "out", {"count": 2}, lambda folder: (folder / "old.png").touch())
    write_folder(tmp_path / "out", {"count": 1}, _write)
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["image.png"]


def test_other_folders_are_not_touched(tmp_path: Path) -> None:
    """A folder that the demo did not write is an error."""
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="was not written by `unfreeze demo`; choose another --out"):
        write_folder(tmp_path, {"count": 1}, _write)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_interrupted_writing_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C leaves neither a partial data set nor a temporary folder."""
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "out", {"count": 1}, _fail)
    assert list(tmp_path.iterdir()) == []
