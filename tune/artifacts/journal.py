"""Log every epoch as it ends: as a line of JSON, and for TensorBoard."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

from tensorboardX import SummaryWriter

from unfreeze.tune.training.train import Epoch

LINES_FILE, EVENTS_FOLDER = "epochs.jsonl", "tensorboard"


class Journal(AbstractContextManager["Journal"]):
    """Writes `epochs.jsonl` and TensorBoard events to a run's folder.

    Args:
        run: the folder.
        before: the completed epochs of a resumed run; epochs that were logged after them are dropped.
    """

    def __init__(self, run: Path, before: Sequence[Epoch]) -> None:
        first = len(before) + 1
        self._lines = (run / LINES_FILE).open("w", encoding="utf-8")
        self._events = SummaryWriter(str(run / EVENTS_FOLDER), purge_step=first, filename_suffix=f".{first}")
        for epoch in before:
            self._write_line(epoch)

    def log(self, epoch: Epoch) -> None:
        """Log an epoch."""
        self._write_line(epoch)
        for name, value in asdict(epoch).items():
            if name != "number" and value is not None:
                self._events.add_scalar(name, value, epoch.number)
        self._events.flush()

    def _write_line(self, epoch: Epoch) -> None:
        self._lines.write(json.dumps(asdict(epoch)) + "\n")
        self._lines.flush()

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self._lines.close()
        self._events.close()
