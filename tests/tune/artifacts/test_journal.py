"""The journal: every epoch once, in lines and in TensorBoard's events, whatever was interrupted."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

from unfreeze.tune.artifacts.journal import Journal
from unfreeze.tune.training.train import Epoch


def _epoch(number: int, held_out_loss: float | None = None) -> Epoch:
    return Epoch(number=number, loss=1 / number, learning_rate=1e-3 * number, held_out_loss=held_out_loss)


def _lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "epochs.jsonl").read_text().splitlines()]


def _masked(data: bytes) -> int:
    checksum = crc32c(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _events(run: Path) -> Iterator[Event]:
    """Read TensorBoard's files: records of length, its checksum, an event, and its checksum (TFRecord)."""
    for path in sorted((run / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack_from("<Q", data)
            assert struct.unpack_from("<I", data, 8)[0] == _masked(data[:8])
            content = data[12 : 12 + length]
            assert struct.unpack_from("<I", data, 12 + length)[0] == _masked(content)
            yield Event.FromString(content)
            data = data[16 + length :]


def _scalars(run: Path) -> dict[tuple[str, int], float]:
    """Give the values by name and epoch as TensorBoard shows them: a session's start purges later steps before it."""
    shown: dict[tuple[str, int], float] = {}
    for event in _events(run):
        if event.HasField("session_log"):
            assert event.session_log.status == event.session_log.START
            shown = {key: value for key, value in shown.items() if key[1] < event.step}
        shown |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return {key: round(value, 6) for key, value in shown.items()}


def test_every_epoch_is_a_line_as_soon_as_it_is_over(tmp_path: Path) -> None:
    """While training goes on the lines so far can be read, and are JSON with all that an epoch gave."""
    with Journal(tmp_path, []) as journal:
        journal.note(_epoch(1))
        assert _lines(tmp_path) == [{"number": 1, "loss": 1.0, "learning_rate": 0.001, "held_out_loss": None}]
        journal.note(_epoch(2, held_out_loss=0.25))
        assert _lines(tmp_path)[1] == {"number": 2, "loss": 0.5, "learning_rate": 0.002, "held_out_loss": 0.25}
    assert len(_lines(tmp_path)) == 2


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    """The events hold loss, learning rate and, where there is one, the held-out loss, at the epoch's number."""
    with Journal(tmp_path, []) as journal:
        journal.note(_epoch(1))
        journal.note(_epoch(2, held_out_loss=0.25))
    assert _scalars(tmp_path) == {
        ("loss", 1): 1.0,
        ("learning_rate", 1): 0.001,
        ("loss", 2): 0.5,
        ("learning_rate", 2): 0.002,
        ("held_out_loss", 2): 0.25,
    }


def test_a_resumed_run_has_every_epoch_once(tmp_path: Path) -> None:
    """What is behind it is written anew and what an interrupted run wrote later is dropped, in lines and events."""
    done = [_epoch(number) for number in range(1, 5)]
    with Journal(tmp_path, []) as journal:
        for epoch in done:
            journal.note(epoch)
    (events,) = (tmp_path / "tensorboard").iterdir()
    events.rename(events.with_name("events.out.tfevents.1000000000.earlier"))  # names have seconds in them
    with Journal(tmp_path, done[:2]) as journal:
        assert [line["number"] for line in _lines(tmp_path)] == [1, 2]
        journal.note(Epoch(number=3, loss=9.0, learning_rate=0.5))
    assert [(line["number"], line["loss"]) for line in _lines(tmp_path)] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    shown = _scalars(tmp_path)
    assert {key: value for key, value in shown.items() if key[0] == "loss"} == {
        ("loss", 1): 1.0,
        ("loss", 2): 0.5,
        ("loss", 3): 9.0,
    }


def test_a_run_resumed_behind_its_last_epoch_keeps_all(tmp_path: Path) -> None:
    """With nothing left to train, the lines are those of all epochs."""
    done = [_epoch(1), _epoch(2, held_out_loss=0.5)]
    with Journal(tmp_path, done):
        pass
    assert [line["number"] for line in _lines(tmp_path)] == [1, 2]
    assert _lines(tmp_path)[1]["held_out_loss"] == 0.5
