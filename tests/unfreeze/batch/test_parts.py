"""Blocks, repetitions, reading ahead, and the listing."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sources import write_table, write_tar

from unfreeze.batch.ahead import read_ahead
from unfreeze.batch.blocks import Block, images_per_block, split
from unfreeze.batch.listing import Listing, write_listing
from unfreeze.batch.repeats import Repeats
from unfreeze.batch.sources.entry import Entry, Item, SourceOptions
from unfreeze.contract.errors import OptionsError, UnfreezeError


def _listing(folder: Path, *sources: object, **options: str) -> Listing:
    folder.mkdir(exist_ok=True)
    return write_listing(folder / "listing.jsonl", [str(one) for one in sources], SourceOptions(**options), ())


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 80))
def test_repetitions_are_found_in_parts_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], at_a_time: int
) -> None:
    """All but the first of equal names, in order."""
    path = tmp_path_factory.mktemp("repeats") / "digests"
    with Repeats(path) as repeats:
        for number in numbers:
            repeats.add(f"name {number}")
        expected = [place for place, number in enumerate(numbers) if number in numbers[:place]]
        assert repeats.find(at_a_time).tolist() == expected
    assert not path.exists()


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 50)), max_size=50), st.integers(1, 100))
def test_blocks_have_all_entries_in_order(sizes: list[tuple[str, int]], size: int) -> None:
    """Parts of a file that follow each other are joined; entries of unknown size are alone."""
    entries, start = [], 1
    for path, count in sizes:
        entries.append(Entry(kind="tar", path=path, count=count, start=start, stop=start + max(1, count)))
        start += max(1, count)
    blocks = list(split(entries, size))
    assert [block.number for block in blocks] == list(range(len(blocks)))
    assert sum(block.images for block in blocks) == sum(count for _, count in sizes)
    spans = [(one.path, place) for block in blocks for one in block.entries for place in range(one.start, one.stop)]
    assert spans == [(one.path, place) for one in entries for place in range(one.start, one.stop)]
    for block in blocks:
        assert block.images - max(one.count for one in block.entries) < size or block.images < size + 50
        assert len(block.entries) == 1 or all(one.count for one in block.entries)
        assert Block.from_json(block.to_json()) == block


@pytest.mark.parametrize(("images", "size"), [(0, 32), (100, 32), (20_000, 96), (262_144, 1024), (10**8, 1024)])
def test_small_jobs_have_small_blocks(images: int, size: int) -> None:
    """Of whole batches, so that all cores have work to the end."""
    assert images_per_block(images, 32) == size


def _items(count: int, size: int) -> Iterator[Item]:
    for number in range(count):
        yield Item(path=str(number), data=bytes(size))


def test_reading_ahead_is_bounded_in_items_and_bytes() -> None:
    """The reader waits for the consumer; a large image alone is allowed."""
    for size, most in ((1, 66), (40 << 20, 4)):
        begun = 0

        def read(size: int = size) -> Iterator[Item]:
            nonlocal begun
            for item in _items(200 if size == 1 else 12, size):
                begun += 1
                yield item

        with read_ahead(read) as items:
            for number, item in enumerate(items):
                assert item.path == str(number)
                assert begun - number <= most
        assert begun == number + 1


def test_an_error_of_the_reader_comes_after_what_was_read() -> None:
    """In the consumer's thread."""

    def read() -> Iterator[Item]:
        yield from _items(3, 1)
        raise UnfreezeError("gone")

    seen = []
    with pytest.raises(UnfreezeError, match="gone"), read_ahead(read) as items:
        seen += items
    assert len(seen) == 3


def test_a_consumer_that_stops_ends_the_reader() -> None:
    """No thread is left behind."""
    with read_ahead(lambda: _items(10**6, 1)) as items:
        next(items)
    assert "read ahead" not in {thread.name for thread in threading.enumerate()}


def test_each_image_is_listed_once(tmp_path: Path) -> None:
    """However often, and by whichever path it is named; the first one counts."""
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.jpg"):
        (images / name).write_bytes(b"x")
    listed = tmp_path / "list.csv"
    listed.write_text("path\nimages/a.jpg\nimages/c.jpg\nimages/sub/../a.jpg\n")
    shard = write_tar(tmp_path / "s.tar", {"1.jpg": b"1"})
    found = _listing(tmp_path / "work", images / "sub" / "b.jpg", images, listed, shard, images / ".." / "s.tar")
    paths = [images / "sub" / "b.jpg", images / "a.jpg", images / "c.jpg", shard]
    assert [entry.path for entry in found.entries()] == [str(path) for path in paths]
    assert (found.images, len(found.repeated), found.unknown) == (4, 4, 0)


def test_the_digest_depends_on_the_images_alone(tmp_path: Path) -> None:
    """It is the same for the same sources, and another one when a file is added or changes."""
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.jpg").write_bytes(b"a")
    first, again = (_listing(tmp_path / name, images).digest for name in ("one", "two"))
    (images / "a.jpg").write_bytes(b"changed")
    changed = _listing(tmp_path / "one", images).digest
    (images / "b.jpg").write_bytes(b"b")
    added = _listing(tmp_path / "one", images).digest
    assert first == again
    assert len({first, changed, added}) == 3


def test_a_folder_may_hold_images_tables_and_shards(tmp_path: Path) -> None:
    """Each file is read by its suffix; --format takes one kind, or every file as an image."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in ("a.jpg", "list.csv"):
        (folder / name).write_bytes(b"x")
    write_table(folder / "b.parquet", image=[b"1", b"2"])
    write_tar(folder / "c.tar", {"1.jpg": b"1"})
    kinds = {
        option: [(entry.kind, entry.count) for entry in _listing(tmp_path / "work", folder, format=option).entries()]
        for option in ("auto", "images", "parquet", "webdataset")
    }
    assert kinds == {
        "auto": [("image", 1), ("parquet", 2), ("tar", 1), ("image", 1)],
        "images": [("image", 1)] * 4,
        "parquet": [("parquet", 2)],
        "webdataset": [("tar", 1)],
    }
    assert (
        _listing(tmp_path / "work", folder, format="parquet").ignored == "ignored 3 files: 3 not of the format parquet"
    )


def test_sources_without_an_image_are_refused(tmp_path: Path) -> None:
    """Before anything is computed, with the reason."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.parquet").write_bytes(b"x")
    with pytest.raises(UnfreezeError, match=re.escape(f"no images in {tmp_path / 'empty'}")):
        _listing(tmp_path / "work", tmp_path / "empty")
    with pytest.raises(UnfreezeError, match=r"no images in .*; .*a\.parquet: not a readable Parquet file"):
        _listing(tmp_path / "work", tmp_path / "a.parquet")
    with pytest.raises(OptionsError, match="--format must be one of auto, images, csv, parquet, webdataset, got 'zip'"):
        _listing(tmp_path / "work", tmp_path / "empty", format="zip")


_LIST = """
import sys
from pathlib import Path
from unfreeze.batch.blocks import split
from unfreeze.batch.listing import write_listing
from unfreeze.batch.sources.entry import SourceOptions

for count in (1_000, 50_000):
    source, listing = Path(f"{count}.csv"), Path("listing")
    with source.open("w") as file:
        file.write("path\\n")
        for number in range(count):
            file.write(f"images/of/a/long/path/{number:08}.jpg\\n")
    listed = write_listing(listing, [str(source)], SourceOptions(), ())
    assert sum(block.images for block in split(listed.entries(), 1024)) == count
    print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def test_memory_hardly_grows_with_the_number_of_images(tmp_path: Path) -> None:
    """50,000 images need less than 120 bytes each while repetitions are sought; a set of their paths needs 200."""
    done = subprocess.run([sys.executable, "-c", _LIST], cwd=tmp_path, capture_output=True, text=True, check=True)
    few, many = map(int, done.stdout.split())
    assert (many - few) * 1024 < 50_000 * 120
