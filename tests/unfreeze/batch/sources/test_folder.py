"""Walking through folders."""

import os
from collections import Counter
from pathlib import Path

import fsspec
import pytest

from unfreeze.batch.sources.entry import Entry
from unfreeze.batch.sources.folder import walk
from unfreeze.batch.storage import Stored
from unfreeze.contract.folders import list_files


def _walked(folder: object, ignored: Counter[str] | None = None) -> list[str]:
    found = walk(str(folder), (), Counter() if ignored is None else ignored)
    return [f"{one.path}: {one.error}" if isinstance(one, Entry) else one.path for one in found]


def test_a_folder_has_what_a_listing_in_memory_has(tmp_path: Path) -> None:
    """Subfolders, links, loops, pipes, dangling links and hidden files are treated as other commands do."""
    folder, other = tmp_path / "images", tmp_path / "other"
    for name in ("b/2.jpg", "b/10.jpg", "a.jpg", "a/z.jpg", ".hidden/x.jpg", "._a.jpg", "no\udce9text.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    other.mkdir()
    (other / "o.jpg").write_bytes(b"o")
    (folder / "a" / "link").symlink_to(other)
    (folder / "b" / "loop").symlink_to(folder)
    (folder / "b" / "up").symlink_to(tmp_path)
    (folder / "c.jpg").symlink_to(folder / "a.jpg")
    (folder / "gone.jpg").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe.jpg")
    listed = list_files(folder)
    expected = [*map(str, listed.files), *(one.message for one in listed.unusable)]
    ignored = Counter[str]()
    assert sorted(_walked(folder, ignored)) == sorted(expected)
    assert ignored == {"hidden": 1, "._* (macOS)": 1, "link to a folder that is listed already": 2}


def test_the_order_is_by_name_with_links_last(tmp_path: Path) -> None:
    """It does not depend on the file system."""
    for name in ("b/2.jpg", "b/10.jpg", "a.jpg", "a/z.jpg", "c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "b").rename(tmp_path.parent / "target")
    (tmp_path / "b").symlink_to(tmp_path.parent / "target")
    names = [os.path.relpath(path, tmp_path) for path in _walked(tmp_path)]
    assert names == ["a/z.jpg", "a.jpg", "c.jpg", "b/10.jpg", "b/2.jpg"]


def test_the_version_of_a_file_changes_with_it(tmp_path: Path) -> None:
    """By its size or its time."""
    path = tmp_path / "a.jpg"
    versions = set()
    for content, time in ((b"a", 1), (b"ab", 1), (b"ab", 2)):
        path.write_bytes(content)
        os.utime(path, (time, time))
        (found,) = walk(str(tmp_path), (), Counter())
        assert isinstance(found, Stored)
        versions.add(found.version)
    assert len(versions) == 3


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are unknown, so that it is an entry of its own; the others are listed. Root may read any folder."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b.jpg").write_bytes(b"b")
    real = os.listdir

    def refuse(path: str) -> list[str]:
        if path.endswith("a"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert _walked(tmp_path) == [f"{tmp_path / 'a'}: cannot be read: Permission denied", str(tmp_path / "b.jpg")]


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_folder_behind_a_url_is_walked_too(tmp_path: Path, kind: str) -> None:
    """By name, with fsspec's and with pyarrow's file systems; leftovers are counted."""
    names = ("a/1.jpg", "a/2.jpg", "b.jpg", "a/.DS_Store", "_SUCCESS")
    for name in names:
        if kind == "memory":
            fsspec.filesystem("memory").pipe(f"/walked/{name}", b"x")
        else:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"x")
    top = "memory://walked" if kind == "memory" else f"file://{tmp_path}"
    ignored = Counter[str]()
    assert _walked(top, ignored) == [f"{top}/{name}" for name in ("a/1.jpg", "a/2.jpg", "b.jpg")]
    assert ignored == {".DS_Store (macOS)": 1, "_SUCCESS (Hadoop)": 1}
