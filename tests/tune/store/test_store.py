"""Rows are read as they were written; nothing that happens to the folder fails a run."""

import multiprocessing
import os
import resource
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from support.stores import (
    AMPLE,
    ROW_BYTES,
    SPACE,
    Messages,
    key_of,
    read_rows,
    size_of,
    value_of,
    write_rows,
    write_slowly,
    write_until,
)

from unfreeze.tune.store.folder import clear, list_spaces
from unfreeze.tune.store.store import FeatureStore

_FORK = multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload(["support.stores"])
SMALL = 64 << 10  # of which a segment is an eighth: 8 rows


def _are(found: dict[int, np.ndarray], numbers: Iterable[int]) -> bool:
    """Return whether exactly these rows were found, with the values that were written."""
    return list(found) == sorted(numbers) and all(np.array_equal(found[one], value_of(one)) for one in numbers)


def _age(folder: Path, seconds: float) -> None:
    """Let everything in a folder be older."""
    for path in folder.rglob("*"):
        if path.is_file():
            then = path.stat().st_mtime - seconds
            os.utime(path, (then, then))


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    """By key and in the order asked for, whatever segments they are in; keys that were not written are missing."""
    assert write_rows(tmp_path, range(20), SMALL) == []
    assert write_rows(tmp_path, range(40, 50), SMALL) == []
    for asked in (range(60), range(59, -1, -1)):
        assert _are(read_rows(tmp_path, asked), [*range(20), *range(40, 50)])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_values_keep_their_type_and_shape(dtype: type, tmp_path: Path) -> None:
    """Also those that are not contiguous in memory, and those that are large."""
    values = np.arange(2 * 5 * 200 * 300).reshape(5, 200, 300, 2).astype(dtype).transpose(0, 3, 1, 2)
    keys = [key_of(one) for one in range(5)]
    with FeatureStore(AMPLE, tmp_path) as store:
        store.space(SPACE).add(keys, {"maps": values})
        values.setflags(write=False)
    received = {}
    with FeatureStore(AMPLE, tmp_path) as store:
        store.space(SPACE).read(keys, ["maps"], lambda name, rows, found: received.update({name: (rows, found)}))
    rows, found = received["maps"]
    assert rows.tolist() == [0, 1, 2, 3, 4]
    assert found.dtype == dtype
    assert np.array_equal(found, values)


def test_a_row_is_found_if_all_its_columns_are_stored(tmp_path: Path) -> None:
    """Columns may be written at different times; the value of a key in one space is not that of another."""
    keys = [key_of(one) for one in range(4)]
    with FeatureStore(AMPLE, tmp_path) as store:
        space = store.space(SPACE)
        space.add(keys, {"a": np.zeros(4, np.float32)})
        space.add(keys[2:], {"b": np.ones(2, np.float32)})
    with FeatureStore(AMPLE, tmp_path) as store:
        assert store.space(SPACE).find(keys, ["a"]).tolist() == [True] * 4
        assert store.space(SPACE).find(keys, ["a", "b"]).tolist() == [False, False, True, True]
        assert store.space(SPACE | {"weights": "1"}).find(keys, ["a"]).tolist() == [False] * 4
        assert store.space(SPACE).keys(["b"]) == set(keys[2:])


def test_a_bound_of_zero_turns_the_store_off(tmp_path: Path) -> None:
    """Nothing is read or written."""
    write_rows(tmp_path, range(4))
    assert read_rows(tmp_path, range(4), 0) == {}
    assert write_rows(tmp_path / "none", range(4), 0) == []
    assert not (tmp_path / "none").exists()


def test_the_longest_unused_rows_make_room_for_new_ones(tmp_path: Path) -> None:
    """The oldest space goes first, then the oldest rows of the current one; the bound is never exceeded."""
    write_rows(tmp_path, range(16), SMALL, "old")
    _age(tmp_path, 100)
    write_rows(tmp_path, range(16), SMALL, "current")
    _age(tmp_path, 100)
    read_rows(tmp_path, range(8), SMALL, "current")  # one segment is used again
    assert write_rows(tmp_path, range(16, 32), SMALL, "current") == []
    assert size_of(tmp_path) <= SMALL
    assert read_rows(tmp_path, range(16), SMALL, "old").keys() == set(range(16))
    _age(tmp_path / list_spaces(tmp_path)[0].path.name, 1000)
    assert write_rows(tmp_path, range(32, 48), SMALL, "current") == []
    assert len(read_rows(tmp_path, range(16), SMALL, "old")) < 16
    assert _are(read_rows(tmp_path, range(32, 48), SMALL, "current"), range(32, 48))
    assert size_of(tmp_path) <= SMALL


def test_more_rows_than_fit_keep_the_first_ones(tmp_path: Path) -> None:
    """A pass over more rows than the bound holds is not of no use to the next one, and the run says so in one line."""
    (problem,) = write_rows(tmp_path, range(200), SMALL)
    assert "do not hold the features of all images; a larger --store-gb does" in problem
    found = read_rows(tmp_path, range(200), SMALL)
    assert list(found) == list(range(len(found)))
    assert SMALL / 2 < len(found) * ROW_BYTES < SMALL
    assert size_of(tmp_path) <= SMALL


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "in the header"])
def test_damaged_segments_are_missing_rows(damage: str, tmp_path: Path) -> None:
    """They are deleted and reported once; rows of other segments are read; the next run writes them again."""
    write_rows(tmp_path, range(8))
    write_rows(tmp_path, range(8, 16))
    segment = min(tmp_path.rglob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    content = bytearray(segment.read_bytes())
    if damage == "flipped":
        content[-100] ^= 1
    elif damage == "in the header":
        content[20] ^= 0xFF
    segment.write_bytes(content[:0] if damage == "emptied" else content[:-7] if damage == "truncated" else content)
    assert _are(read_rows(tmp_path, range(16)), range(8, 16))
    assert not segment.exists()
    assert write_rows(tmp_path, range(8)) == []
    assert len(read_rows(tmp_path, range(16))) == 16


def test_damage_is_reported_in_one_line(tmp_path: Path) -> None:
    """It names the file, and says what happens."""
    write_rows(tmp_path, range(8))
    (segment,) = tmp_path.rglob("*.safetensors")
    segment.write_bytes(segment.read_bytes()[:-1])
    reporter = Messages()
    with FeatureStore(AMPLE, tmp_path, reporter) as store:
        assert not store.space(SPACE).find([key_of(0)], ["values"]).any()
    (message,) = reporter.messages
    assert message.startswith(f"feature store: {segment} is damaged")
    assert message.endswith("was deleted; its images are computed again")


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    """Where a file is in the place of the folder, rows are neither read nor written."""
    (tmp_path / "file").write_text("x")
    (problem,) = write_rows(tmp_path / "file" / "features", range(100))
    assert "nothing more is stored" in problem
    assert "Not a directory" in problem
    assert read_rows(tmp_path / "file" / "features", range(100)) == {}


@contextmanager
def _file_limit(size_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    """What was written before stays, and no incomplete file is left behind."""
    write_rows(tmp_path, range(8))
    with _file_limit(2000):
        (problem,) = write_rows(tmp_path, range(8, 400))
    assert "nothing more is stored" in problem
    assert list(read_rows(tmp_path, range(400))) == list(range(8))
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".tmp"]


@pytest.mark.parametrize("bound_bytes", [AMPLE, SMALL])
def test_a_kill_at_any_operation_leaves_a_usable_store(bound_bytes: int, tmp_path: Path) -> None:
    """Rows of before and after are right, and files that were not finished are deleted when they are old."""
    outcomes = set()
    for operation in range(1, 12):
        folder = tmp_path / str(operation)
        write_rows(folder, range(16), bound_bytes, "0")
        _age(folder, 100)
        process = _FORK.Process(target=write_until, args=(operation, folder, bound_bytes))
        process.start()
        process.join()
        outcomes.add(process.exitcode)
        found = read_rows(folder, range(200), bound_bytes)
        assert _are(found, found)
        assert bound_bytes == SMALL or found.keys() >= set(range(16))
        _age(folder, 7200)
        assert write_rows(folder, range(300, 316), bound_bytes) == []
        assert _are(read_rows(folder, range(300, 316), bound_bytes), range(300, 316))
        assert size_of(folder) <= bound_bytes
        clear(folder, unused_since=time.time() + 10)
        assert not [path for path in folder.rglob("*") if path.suffix == ".safetensors"]
    assert -9 in outcomes


def test_several_processes_write_to_one_folder(tmp_path: Path) -> None:
    """The rows of all are found."""
    parts = [range(start, start + 100) for start in (0, 100, 200)]
    processes = [_FORK.Process(target=write_rows, args=(tmp_path, part)) for part in parts]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert _are(read_rows(tmp_path, range(300)), range(300))


def test_clearing_does_not_stop_a_process_that_writes(tmp_path: Path) -> None:
    """It goes on, and what it writes afterwards is found."""
    folder, started = tmp_path / "features", tmp_path / "started"
    process = _FORK.Process(target=write_slowly, args=(folder, range(200), started))
    process.start()
    while not started.exists():
        time.sleep(0.01)
    while process.is_alive():
        clear(folder, unused_since=time.time() + 10)
        time.sleep(0.005)
    process.join()
    assert process.exitcode == 0
    write_rows(folder, range(4))
    assert _are(read_rows(folder, range(4)), range(4))


def test_clearing_spares_what_was_used_lately(tmp_path: Path) -> None:
    """Only rows that were not used after the time are deleted, and a space without rows goes with them."""
    write_rows(tmp_path, range(8), space="old")
    _age(tmp_path, 1000)
    write_rows(tmp_path, range(8), space="new")
    freed = clear(tmp_path, unused_since=time.time() - 500)
    assert freed > 8 * ROW_BYTES
    assert len(list_spaces(tmp_path)) == 1
    assert read_rows(tmp_path, range(8), space="old") == {}
    assert _are(read_rows(tmp_path, range(8), space="new"), range(8))


def test_files_of_another_version_are_left_alone(tmp_path: Path) -> None:
    """A folder of unknown content neither disturbs nor is disturbed."""
    other = tmp_path / "of a newer version"
    other.mkdir()
    (other / "rows.db").write_bytes(b"x")
    (other / "space.json").write_text("[]")
    (tmp_path / "index").write_text("x")
    assert write_rows(tmp_path, range(8)) == []
    assert _are(read_rows(tmp_path, range(8)), range(8))
    assert (other / "rows.db").exists()
