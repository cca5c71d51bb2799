"""Rows for the feature store, and processes that write them."""

import time
from pathlib import Path

import numpy as np

from support.killing import kill_at_operation
from unfreeze.tune.store.segments import KEY_LENGTH
from unfreeze.tune.store.store import FeatureStore

SPACE = {"backbone": "none", "weights": "0"}
AMPLE = 1 << 30
ROW_BYTES = 4 * 256


def key_of(number: int) -> str:
    """Return the key of a row."""
    return f"{number:0{KEY_LENGTH}x}"


def value_of(number: int) -> np.ndarray:
    """Return the values of a row, 1 KB."""
    return np.random.default_rng(number).standard_normal(256, np.float32)


def write_rows(folder: Path, numbers: range, bound_bytes: int = AMPLE, space: str = "0", at_once: int = 4) -> list[str]:
    """Write rows and close the store; return the problems that it reports."""
    reporter = Messages()
    with FeatureStore(bound_bytes, folder, reporter) as store:
        rows = store.space(SPACE | {"weights": space})
        for start in range(numbers.start, numbers.stop, at_once):
            some = range(start, min(numbers.stop, start + at_once))
            rows.add([key_of(one) for one in some], {"values": np.stack([value_of(one) for one in some])})
    return reporter.messages


def read_rows(folder: Path, numbers: range, bound_bytes: int = AMPLE, space: str = "0") -> dict[int, np.ndarray]:
    """Read the rows that are stored, by their numbers."""
    found: dict[int, np.ndarray] = {}

    def receive(column: str, positions: np.ndarray, values: np.ndarray) -> None:
        assert column == "values"
        found.update(zip((numbers[position] for position in positions), values, strict=True))

    with FeatureStore(bound_bytes, folder) as store:
        rows = store.space(SPACE | {"weights": space})
        complete = rows.read([key_of(one) for one in numbers], ["values"], receive)
    assert sorted(found) == sorted(numbers[position] for position in np.flatnonzero(complete))
    return dict(sorted(found.items()))


def size_of(folder: Path) -> int:
    """Return the size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_until(operation: int, folder: Path, bound_bytes: int) -> None:
    """Write rows, killed right before the n-th operation in the folder; for a process of its own."""
    kill_at_operation(operation, folder)
    write_rows(folder, range(100, 200), bound_bytes)


def write_slowly(folder: Path, numbers: range, started: Path) -> None:
    """Write a segment for every few rows, with pauses; for a process of its own."""
    for number in range(numbers.start, numbers.stop, 4):
        write_rows(folder, range(number, number + 4))
        started.touch()
        time.sleep(0.02)


class Messages:
    """A reporter that keeps messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def info(self, text: str) -> None:
        """Keep a message."""
        self.messages.append(text)

    def track(self, what: str, total: int):  # noqa: ANN201, ARG002 - progress does not matter here
        """Ignore progress."""
        return lambda _: None
