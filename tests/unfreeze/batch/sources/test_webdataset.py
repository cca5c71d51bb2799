"""Tar shards: which members are images, and what is reported of files that are not whole."""

import io
import tarfile
from pathlib import Path

import fsspec
import pytest
from support.sources import write_tar

from unfreeze.batch.blocks import split
from unfreeze.batch.sources import read
from unfreeze.batch.sources.entry import Entry, Item, SourceOptions
from unfreeze.batch.sources.webdataset import list_tar
from unfreeze.batch.storage import look_up
from unfreeze.contract.errors import UnfreezeError

FILES = {f"{number:03}.{suffix}": b"%d" % number * 700 for number in range(70) for suffix in ("jpg", "json")}


def _entries(path: Path | str) -> list[Entry]:
    found = look_up(str(path))
    assert found is not None
    return list(list_tar(found, SourceOptions()))


def _items(path: Path | str, size: int = 1000) -> list[Item]:
    return [item for block in split(_entries(path), size) for entry in block.entries for item in read(entry, "")]


def test_images_are_read_from_their_part_of_a_shard(tmp_path: Path) -> None:
    """However a shard is divided, each image is read once, in order, with the sample's key."""
    path = write_tar(tmp_path / "a.tar", FILES)
    expected = [(f"{path}#{name}", name[:3], data) for name, data in FILES.items() if name.endswith("jpg")]
    assert [entry.count for entry in _entries(path)] == [32, 32, 6]
    for size in (1, 40, 1000):
        assert [(item.path, item.key, item.data) for item in _items(path, size)] == expected


def test_a_shard_behind_a_url_is_one_part(tmp_path: Path) -> None:
    """It is read as a stream, and has the same images."""
    local = write_tar(tmp_path / "a.tar", FILES)
    fsspec.filesystem("memory").pipe("/shards/a.tar", local.read_bytes())
    (entry,) = _entries("memory://shards/a.tar")
    assert (entry.count, entry.stop) == (0, 0)
    expected = [(item.key, item.data) for item in _items(local)]
    assert [(item.key, item.data) for item in _items("memory://shards/a.tar")] == expected


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_folders_are_kept(tmp_path: Path, kind: int) -> None:
    """Names beyond 100 characters need headers of their own, also where a part begins; folders are no images."""
    files = {f"{'folder.d/' * 15}{number}.left.PNG": b"%d" % number for number in range(70)}
    path = write_tar(tmp_path / "a.tar", files, kind=kind)
    with tarfile.open(path, "a") as tar:
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    found = _items(path, 1)
    assert [(item.path.partition("#")[2], item.data) for item in found] == list(files.items())
    assert found[3].key == f"{'folder.d/' * 15}3"


def test_a_link_is_reported_instead_of_followed(tmp_path: Path) -> None:
    """GNU tar writes the second of two equal files as a link."""
    path = write_tar(tmp_path / "a.tar", {"a.jpg": b"a"})
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "a.jpg"
        tar.addfile(link)
    whole, linked = _items(path)
    assert (whole.data, linked.error) == (b"a", "a link or a device inside the tar file, not an image")


def _cut(size: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()[:size]


_MEMBER = 512 + 1024  # the header and the data of one of the first ten samples, padded
WRONG = [
    (_cut(4 * _MEMBER + 100), 2, "after 2 images: it is truncated"),
    (_cut(4 * _MEMBER + 512 + 100), 2, "after 2 images: it is truncated"),
    (_cut(4 * _MEMBER), 2, "after 2 images: it is truncated"),
    (_cut(4 * _MEMBER) + b"garbage!" * 500, 2, "after 2 images: it is damaged, or is no tar file (compressed"),
    (b"\x1f\x8b" + b"x" * 5000, 0, "after 0 images: it is damaged, or is no tar file (compressed ones have to be"),
    (b"", 0, "after 0 images: it is truncated"),
    (b"\0" * 10240, 0, "the tar file has no member with the suffix of an image"),
]


@pytest.mark.parametrize(("content", "count", "error"), WRONG)
def test_what_is_wrong_is_one_row_after_the_whole_images(
    tmp_path: Path, content: bytes, count: int, error: str
) -> None:
    """A truncated, damaged or empty file loses no whole image, and is not taken for a short one; the same as a URL."""
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    fsspec.filesystem("memory").pipe("/wrong/a.tar", content)
    for found in (_items(path), _items("memory://wrong/a.tar")):
        assert [(item.data, item.error) for item in found[:-1]] == [
            (FILES[f"{one:03}.jpg"], "") for one in range(count)
        ]
        assert found[-1].error.startswith(error)
        assert found[-1].path.endswith("/a.tar")


def test_a_shard_that_changed_since_it_was_listed_ends_the_job(tmp_path: Path) -> None:
    """Positions in the old file have no meaning in the new one; a file that is gone is named, too."""
    path = write_tar(tmp_path / "a.tar", FILES)
    (entry, *_) = _entries(path)
    write_tar(path, {"other.jpg": b"x"})
    with pytest.raises(UnfreezeError, match=r"a\.tar has changed since it was listed; run the command again"):
        list(read(entry, ""))
    path.unlink()
    with pytest.raises(UnfreezeError, match=r"a\.tar was listed and can no longer be read: no such file; all machines"):
        list(read(entry, ""))
