"""CSV lists of paths and URLs."""

import re
from pathlib import Path

import fsspec
import pytest

from unfreeze.batch.sources.csv_list import list_csv
from unfreeze.batch.sources.entry import SourceOptions
from unfreeze.batch.storage import look_up
from unfreeze.contract.errors import UnfreezeError


def _paths(path: Path | str, column: str = "") -> list[str]:
    found = look_up(str(path))
    assert found is not None
    return [entry.path for entry in list_csv(found, SourceOptions(column=column))]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["path", "Image", "url"])
def test_paths_are_relative_to_the_list(tmp_path: Path, delimiter: str, name: str) -> None:
    """Whatever the delimiter and the usual name; URLs, quotes, empty lines and a byte order mark are understood."""
    rows = [
        ["id", name],
        ["1", "a.jpg"],
        ["", ""],
        ["2", f'"b{delimiter}c.jpg"'],
        ["3", "../d/e.jpg"],
        ["4", "s3://f/g h.jpg"],
    ]
    path = tmp_path / "list.csv"
    path.write_text("\ufeff" + "\r\n".join(delimiter.join(row) for row in rows), encoding="utf-8")
    assert _paths(path) == [
        str(tmp_path / "a.jpg"),
        str(tmp_path / f"b{delimiter}c.jpg"),
        str(tmp_path.parent / "d" / "e.jpg"),
        "s3://f/g h.jpg",
    ]


def test_a_list_behind_a_url_has_paths_beside_it() -> None:
    """A path in a list in a bucket is in that bucket."""
    fsspec.filesystem("memory").pipe("/lists/list.csv", b"path\na.jpg\n/local/b.jpg\n")
    assert _paths("memory://lists/list.csv") == ["memory://lists/a.jpg", "/local/b.jpg"]


WRONG = [
    (
        b"photo,label\na.jpg,ant\n",
        "",
        "has no column of image paths named path or image; it has 2 columns: 'photo', 'label'",
    ),
    (b"a.jpg\nb.jpg\n", "", "it has 1 column: 'a.jpg'; name the column with --column"),
    (b"", "", "has no column of image paths"),
    (b"path,path\na,b\n", "", "has 2 columns named 'path'; rename one of them"),
    (b"path\na.jpg\n", "file", "has no column 'file'"),
    (b"path,label\na.jpg,ant\n ,bee\n", "", "has no path in line 3; correct or remove the line"),
    (b"path\na,b.jpg\n", "", "has too many fields in line 2; correct or remove the line"),
    (b'path\na.jpg\n"b"c.jpg\n', "", "cannot be read at line 3: "),
    (b"path\n\xff.jpg\n", "", "is not UTF-8; save it as CSV in UTF-8"),
    ("path\na.jpg\n".encode("utf-16"), "", "is not UTF-8; save it as CSV in UTF-8"),
]


@pytest.mark.parametrize(("content", "column", "message"), WRONG)
def test_a_list_that_is_wrong_says_where(tmp_path: Path, content: bytes, column: str, message: str) -> None:
    """The error names the file, and the line or the columns."""
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    with pytest.raises(UnfreezeError, match=re.escape(f"{path} {message}").replace("it\\ has", ".*it\\ has")):
        _paths(path, column)
