"""Parquet files of images and of paths."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.sources import write_table

from unfreeze.batch.blocks import split
from unfreeze.batch.sources import read
from unfreeze.batch.sources.entry import Entry, Item, SourceOptions
from unfreeze.batch.sources.parquet import list_parquet
from unfreeze.batch.storage import look_up
from unfreeze.contract.errors import UnfreezeError

IMAGES = [b"image %d" % number * 100 for number in range(25)]


def _entries(path: Path, column: str = "") -> list[Entry]:
    found = look_up(str(path))
    assert found is not None
    return list(list_parquet(found, SourceOptions(column=column)))


def _items(path: Path, column: str = "", size: int = 1000) -> list[Item]:
    blocks = split(_entries(path, column), size)
    return [item for block in blocks for entry in block.entries for item in read(entry, "")]


@pytest.mark.parametrize("size", [1, 12, 1000])
@pytest.mark.parametrize("name", ["image", "bytes"])
def test_bytes_are_read_row_by_row(tmp_path: Path, name: str, size: int) -> None:
    """However the row groups are divided, each row is one image that its number names; a null is an error."""
    rows: list[bytes | None] = [*IMAGES]
    rows[13] = None
    path = write_table(tmp_path / "a.parquet", **{name: rows, "id": [100 + number for number in range(25)]})
    assert [entry.count for entry in _entries(path)] == [10, 10, 5]
    found = _items(path, size=size)
    assert [item.path for item in found] == [f"{path}#{number}" for number in range(25)]
    assert [item.key for item in found] == [str(100 + number) for number in range(25)]
    assert [item.data for item in found] == [data or b"" for data in rows]
    assert [item.error for item in found] == ["the row has no image" if data is None else "" for data in rows]


def test_structs_of_hugging_face_have_bytes_or_the_path_of_a_file(tmp_path: Path) -> None:
    """A struct without bytes names a file, relative to the Parquet file; one that is missing is an error of its row."""
    (tmp_path / "own.jpg").write_bytes(b"own")
    rows = [{"bytes": b"a", "path": "a.jpg"}, {"bytes": None, "path": "own.jpg"}, {"bytes": None, "path": "no.jpg"}]
    path = write_table(tmp_path / "a.parquet", picture=rows, label=[0, 1, 2])
    found = [(item.key, item.data, item.error) for item in _items(path)]
    assert found == [("a.jpg", b"a", ""), ("own.jpg", b"own", ""), ("no.jpg", b"", "no.jpg: no such file")]


def test_paths_are_relative_to_the_list(tmp_path: Path) -> None:
    """A column of text is a list of image files and URLs."""
    path = write_table(tmp_path / "list.parquet", path=["a.jpg", "/b.jpg", "s3://bucket/c.jpg"])
    assert [entry.path for entry in _entries(path)] == [str(tmp_path / "a.jpg"), "/b.jpg", "s3://bucket/c.jpg"]


def test_a_column_can_be_chosen(tmp_path: Path) -> None:
    """Of two columns of images, the usual name wins, and --column chooses the other one."""
    path = write_table(tmp_path / "a.parquet", mask=[b"m"], image=[b"i"])
    assert [item.data for item in (*_items(path), *_items(path, "mask"))] == [b"i", b"m"]


WRONG_COLUMNS: list[tuple[dict[str, Sequence[object]], str, str]] = [
    (
        {"text": ["a"], "label": [1]},
        "",
        "has no column of images, or of paths named path or image; it has 1 column: 'text'",
    ),
    ({"label": [1]}, "", "it has 1 column: 'label'; name the column with --column"),
    (
        {"left": [b"a"], "right": [b"b"]},
        "",
        "has no column of images named image or bytes; it has 2 columns: 'left', 'ri",
    ),
    ({"image": [b"a"]}, "photo", "has no column 'photo'; it has 1 column: 'image'"),
    ({"image": [b"a"], "label": [1]}, "label", "column 'label' holds int64; expected encoded images or paths"),
    ({"path": ["a.jpg", None]}, "", "has no path in row 1; fill it in, or remove the row"),
]


@pytest.mark.parametrize(("columns", "column", "message"), WRONG_COLUMNS)
def test_a_table_without_images_says_what_it_has(
    tmp_path: Path, columns: dict[str, Sequence[object]], column: str, message: str
) -> None:
    """The error names the file and its columns."""
    path = write_table(tmp_path / "a.parquet", **columns)
    with pytest.raises(UnfreezeError, match=re.escape(message)):
        _items(path, column)


def test_a_truncated_file_and_one_without_rows_are_one_row_each(tmp_path: Path) -> None:
    """Without the end of the file nothing can be read; the reason is stated."""
    path = write_table(tmp_path / "a.parquet", image=IMAGES)
    path.write_bytes(path.read_bytes()[:-100])
    (item,) = _items(path)
    assert item.error.startswith("not a readable Parquet file: ")
    pq.write_table(pa.schema([("image", pa.binary())]).empty_table(), tmp_path / "b.parquet")
    (item,) = _items(tmp_path / "b.parquet")
    assert item.error == "the Parquet file has no rows"


def test_damage_in_the_middle_leaves_a_row_for_each_image(tmp_path: Path) -> None:
    """Each row of the damaged row group is an error; the other groups are read."""
    images = [np.random.default_rng(number).bytes(20_000) for number in range(25)]
    path = write_table(tmp_path / "a.parquet", group_rows=5, image=images)
    content = bytearray(path.read_bytes())
    start = content.index(images[10])
    content[start - 14 : start] = b"\xff" * 14  # its page's header ends here
    path.write_bytes(content)
    found = _items(path)
    assert [item.path for item in found] == [f"{path}#{number}" for number in range(25)]
    whole = [item.data for item in found[:10] + found[15:]]
    assert whole == images[:10] + images[15:]
    assert all(item.error.startswith("the Parquet file is damaged: ") for item in found[10:15])
