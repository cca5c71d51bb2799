"""Braces, patterns, paths and URLs."""

from pathlib import Path

import fsspec
import pytest

from unfreeze.batch.sources.entry import Entry
from unfreeze.batch.sources.expand import expand, expand_braces
from unfreeze.contract.errors import UnfreezeError


def _expanded(*sources: object) -> list[str]:
    return [found.path for found in expand([str(source) for source in sources])]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{008..010}.tar", ["008.tar", "009.tar", "010.tar"]),
        ("{8..10}", ["8", "9", "10"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("{a}{,x}", ["{a}", "{a}x"]),
    ],
)
def test_braces_stand_for_several_names(text: str, names: list[str]) -> None:
    """As WebDataset and shells write them."""
    assert list(expand_braces(text)) == names


@pytest.mark.parametrize("text", ["{0..99999999}", "{0..9999}{0..9999}"])
def test_too_many_names_are_refused(text: str) -> None:
    """A mistyped range does not fill the memory."""
    with pytest.raises(UnfreezeError, match="stand"):
        expand_braces(text)


def test_patterns_find_files_in_order(tmp_path: Path) -> None:
    """Sorted by name; what is there by exactly this name is meant literally; a dangling link is an entry of its own."""
    for name in ("2.tar", "10.tar", "[x].tar", "{a,b}.tar", "sub/3.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "9.tar").symlink_to("nothing")
    assert _expanded(tmp_path / "[0-9]*.tar") == [str(tmp_path / name) for name in ("10.tar", "2.tar", "9.tar")]
    assert [type(one) is Entry for one in expand([str(tmp_path / "?.tar")])] == [False, True]
    assert _expanded(tmp_path / "[x].tar", tmp_path / "{a,b}.tar") == [
        str(tmp_path / "[x].tar"),
        str(tmp_path / "{a,b}.tar"),
    ]
    assert _expanded(tmp_path / "**" / "3.tar") == [str(tmp_path / "sub" / "3.tar")]
    assert _expanded(tmp_path / "{2,10}.tar") == [str(tmp_path / "2.tar"), str(tmp_path / "10.tar")]


def test_patterns_of_urls_match_the_last_part() -> None:
    """The folder of the URL is listed once."""
    for name in ("1.tar", "2.tar", "2.txt"):
        fsspec.filesystem("memory").pipe(f"/expanded/{name}", b"x")
    assert _expanded("memory://expanded/*.tar") == ["memory://expanded/1.tar", "memory://expanded/2.tar"]
    assert _expanded("memory://expanded/{2,1}.tar") == ["memory://expanded/2.tar", "memory://expanded/1.tar"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere: no such file; give image files, folders, or CSV, Parquet or tar files"),
        ("memory://nowhere/a.tar", "memory://nowhere/a.tar: no such file or folder"),
        ("*.nothing", r"nothing matches the pattern \*.nothing"),
        ("memory://a*/b.tar", "only the name after the last / may have wildcards"),
        ("{1..2}.nothing", "1.nothing: no such file"),
        ("sftp://host/a.jpg", 'sftp://host/a.jpg needs a package that is not installed: .*"paramiko"'),
        ("strange://a", "strange://a cannot be read: Protocol not known: strange"),
        ("pipe", "pipe: a named pipe, not a file"),
    ],
)
def test_what_does_not_exist_is_an_error_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    """Before anything is computed; a missing driver is named."""
    import os

    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnfreezeError, match=message):
        _expanded(source)
