"""Folders as they are found on disks: links, loops, pipes, and what systems leave behind."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from unfreeze.contract.folders import LeftOut, file_problem, list_files, summarize_ignored

LEFTOVERS = (
    "__MACOSX/disc/._00.jpg",
    "disc/._01.jpg",
    "disc/.DS_Store",
    "disc/.ipynb_checkpoints/1-checkpoint.jpg",
    "@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg",
    "lost+found/1.jpg",
    "System Volume Information/IndexerVolumeGuid",
    "$RECYCLE.BIN/1.jpg",
    "disc/Thumbs.db",
    "disc/desktop.ini",
    ".git/objects/ab/cd",
    "disc/1.jpg~",
    ".cache/1.jpg",
)


def _write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def _relative(folder: Path, listed: tuple[LeftOut, ...]) -> dict[str, str]:
    return {entry.path.relative_to(folder).as_posix(): entry.reason for entry in listed}


def test_lists_files_of_all_folders_in_order(tmp_path: Path) -> None:
    """Files at any depth, sorted by path, under a folder that may be hidden itself."""
    folder = tmp_path / ".hidden"
    _write(folder, "b/2.jpg", "b/deep/er/1", "a/3.txt", "1.jpg")
    listing = list_files(folder)
    assert [path.relative_to(folder).as_posix() for path in listing.files] == [
        "1.jpg",
        "a/3.txt",
        "b/2.jpg",
        "b/deep/er/1",
    ]
    assert (listing.unusable, listing.ignored) == ((), ())


def test_leftovers_are_ignored_and_counted_by_kind(tmp_path: Path) -> None:
    """Every kind is counted with the files below it; images beside them are listed."""
    _write(tmp_path, *LEFTOVERS, "disc/1.jpg", "__MACOSX/disc/._02.jpg")
    listing = list_files(tmp_path)
    assert listing.files == (tmp_path / "disc" / "1.jpg",)
    assert listing.unusable == ()
    assert sum(entry.files for entry in listing.ignored) == len(LEFTOVERS) + 1
    assert summarize_ignored(listing.ignored) == (
        "ignored 14 files: 2 __MACOSX (macOS), 1 $RECYCLE.BIN (Windows), 1 hidden, 1 .git (Git), 1 @eaDir (Synology), "
        "1 System Volume Information (Windows), 1 .DS_Store (macOS), 1 ._* (macOS), "
        "1 .ipynb_checkpoints (Jupyter), 1 *~ (editor backup), 1 Thumbs.db (Windows), 1 desktop.ini (Windows), "
        "1 lost+found (Linux)"
    )


@pytest.mark.parametrize("name", ["THUMBS.DB", "Desktop.ini", "__macosx", "@EADIR"])
def test_leftovers_are_recognized_in_any_case(name: str, tmp_path: Path) -> None:
    """File systems change the case of names."""
    _write(tmp_path, name)
    assert summarize_ignored(list_files(tmp_path).ignored).startswith("ignored 1 file: 1 ")


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    """Images behind a link are listed under the link; a folder is listed once, under its own path if it has one."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    _write(root, "z/1.jpg")
    _write(elsewhere, "2.jpg")
    (root / "a").symlink_to(root / "z")
    (root / "b").symlink_to(elsewhere)
    (root / "z" / "up").symlink_to(root)
    (root / "z" / "all").symlink_to(tmp_path)
    (elsewhere / "itself").symlink_to(elsewhere)
    listing = list_files(root)
    assert listing.files == (root / "b" / "2.jpg", root / "z" / "1.jpg")
    again = "link to a folder that is listed already"
    assert listing.unusable == ()
    assert _relative(root, listing.ignored) == {"a": again, "b/itself": again, "z/all": again, "z/up": again}


def test_what_is_no_file_is_named_with_its_reason(tmp_path: Path) -> None:
    """Dangling links, links that lead to themselves, pipes, sockets and devices; links to files are files."""
    _write(tmp_path, "1.jpg")
    (tmp_path / "good.jpg").symlink_to("1.jpg")
    (tmp_path / "gone.jpg").symlink_to("nothing.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "null.jpg").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.jpg"))
        listing = list_files(tmp_path)
    assert [path.name for path in listing.files] == ["1.jpg", "good.jpg"]
    assert _relative(tmp_path, listing.unusable) == {
        "gone.jpg": "a dangling link",
        "loop.jpg": "cannot be read: Too many levels of symbolic links",
        "null.jpg": "a device, not a file",
        "pipe.jpg": "a named pipe, not a file",
        "socket.jpg": "a socket, not a file",
    }
    assert [entry if isinstance(entry, Path) else entry.path for entry in listing.entries] == sorted(tmp_path.iterdir())
    assert file_problem(tmp_path / "none.jpg") == "no such file"
    assert file_problem(tmp_path) == "a folder, not a file"
    assert file_problem(tmp_path / ("x" * 300)) == "cannot be read: File name too long"


@pytest.fixture
def unreadable(tmp_path: Path) -> Iterator[Path]:
    """A folder whose deepest subfolder has a path too long to open, by any user."""
    before = Path.cwd()
    os.chdir(tmp_path)
    for _ in range(4096 // 200 + 1):
        Path("d" * 200).mkdir()
        os.chdir("d" * 200)
    Path("1.jpg").write_bytes(b"x")
    os.chdir(before)
    return tmp_path


def test_folders_that_cannot_be_read_are_named(unreadable: Path) -> None:
    """What lies below them is not known; the folder is."""
    _write(unreadable, "1.jpg")
    listing = list_files(unreadable)
    assert listing.files == (unreadable / "1.jpg",)
    (left_out,) = listing.unusable
    assert left_out.reason == "cannot be read: File name too long"
    assert [entry.reason for entry in list_files(unreadable / "none").unusable] == [
        "cannot be read: No such file or directory"
    ]
