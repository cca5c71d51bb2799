"""Results of earlier comparisons."""

from dataclasses import replace
from pathlib import Path

from unfreeze.compare.stored import StoredResults, comparisons_folder

KEY = {"backbone": "a", "size": (32, 32)}


def test_a_result_is_found_by_all_that_it_depends_on(tmp_path: Path) -> None:
    """Another key, another kind or `fresh` finds nothing."""
    stored = StoredResults(folder=tmp_path / "new")
    stored.store("latency", KEY, {"ms": 1.5})
    assert stored.load("latency", KEY) == {"ms": 1.5}
    assert stored.load("latency", KEY | {"backbone": "b"}) is None
    assert stored.load("probe", KEY) is None
    assert replace(stored, fresh=True).load("latency", KEY) is None


def test_a_damaged_file_is_computed_again(tmp_path: Path) -> None:
    """It is replaced by the next result."""
    stored = StoredResults(folder=tmp_path)
    stored.store("latency", KEY, {"ms": 1.5})
    (file,) = tmp_path.iterdir()
    for content in (b"", b"{", b"[]", b'{"key": {}, "result": {"ms": 3}}'):
        file.write_bytes(content)
        assert stored.load("latency", KEY) is None
    stored.store("latency", KEY, {"ms": 2.5})
    assert stored.load("latency", KEY) == {"ms": 2.5}


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """Nothing is stored."""
    (tmp_path / "file").write_bytes(b"")
    stored = StoredResults(folder=tmp_path / "file")
    stored.store("latency", KEY, {"ms": 1.5})
    assert stored.load("latency", KEY) is None


def test_folder_is_in_the_cache_folder(cache_folder: Path) -> None:
    """The environment variable is that of the feature store."""
    assert comparisons_folder() == cache_folder / "compare"
