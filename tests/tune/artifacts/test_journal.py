"""The journal holds every epoch once, in lines and in TensorBoard events, also after interruptions."""

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
    """Return the values by name and epoch as TensorBoard shows them: a session start purges later steps before it."""
    shown: dict[tuple[str, int], float] = {}
    for event in _events(run):
        if event.HasField("session_log"):
            assert event.session_log.status == event.session_log.START
            shown = {key: value for key, value in shown.items() if key[1] < event.step}
        shown |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return {key: round(value, 6) for key, value in shown.items()}


def test_writes_a_line_after_every_epoch(tmp_path: Path) -> None:
    """During training the lines can be read; each is JSON with all values of an epoch."""
    with Journal(tmp_path, []) as journal:
        journal.log(_epoch(1))
        assert _lines(tmp_path) == [{"number": 1, "loss": 1.0, "learning_rate": 0.001, "held_out_loss": None}]
        journal.log(_epoch(2, held_out_loss=0.25))
        assert _lines(tmp_path)[1] == {"number": 2, "loss": 0.5, "learning_rate": 0.002, "held_out_loss": 0.25}
    assert len(_lines(tmp_path)) == 2


def test_tensorboard_receives_the_same_values(tmp_path: Path) -> None:
    """The events hold loss, learning rate and, if there is one, the held-out loss by epoch."""
    with Journal(tmp_path, []) as journal:
        journal.log(_epoch(1))
        journal.log(_epoch(2, held_out_loss=0.25))
    assert _scalars(tmp_path) == {
        ("loss", 1): 1.0,
        ("learning_rate", 1): 0.001,
        ("loss", 2): 0.5,
        ("learning_rate", 2): 0.002,
        ("held_out_loss", 2): 0.25,
    }


def test_a_resumed_run_logs_every_epoch_once(tmp_path: Path) -> None:
    """Completed epochs are written again, and later ones of the interrupted run dropped, in lines and events."""
    done = [_epoch(number) for number in range(1, 5)]
    with Journal(tmp_path, []) as journal:
        for epoch in done:
            journal.log(epoch)
    (events,) = (tmp_path / "tensorboard").iterdir()
    events.rename(events.with_name("events.out.tfevents.1000000000.earlier"))  # names have seconds in them
    with Journal(tmp_path, done[:2]) as journal:
        assert [line["number"] for line in _lines(tmp_path)] == [1, 2]
        journal.log(Epoch(number=3, loss=9.0, learning_rate=0.5))
    assert [(line["number"], line["loss"]) for line in _lines(tmp_path)] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    shown = _scalars(tmp_path)
    assert {key: value for key, value in shown.items() if key[0] == "loss"} == {
        ("loss", 1): 1.0,
        ("loss", 2): 0.5,
        ("loss", 3): 9.0,
    }


def test_a_run_resumed_after_its_last_epoch_keeps_all(tmp_path: Path) -> None:
    """With nothing left to train, all epochs are logged."""
    done = [_epoch(1), _epoch(2, held_out_loss=0.5)]
    with Journal(tmp_path, done):
        pass
    assert [line["number"] for line in _lines(tmp_path)] == [1, 2]
    assert _lines(tmp_path)[1]["held_out_loss"] == 0.5
