"""Keep what every epoch gave, for people who watch: JSON lines and TensorBoard."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

from tensorboardX import SummaryWriter

from unfreeze.tune.training.train import Epoch

LINES, EVENTS = "epochs.jsonl", "tensorboard"


class Journal(AbstractContextManager["Journal"]):
    """Writes `epochs.jsonl` and TensorBoard's events into a run's folder.

    Args:
        run: the folder.
        before: the epochs that a resumed run has behind it; later lines are dropped.
    """

    def __init__(self, run: Path, before: Sequence[Epoch]) -> None:
        begin = len(before) + 1
        self._lines = (run / LINES).open("w", encoding="utf-8")
        self._events = SummaryWriter(str(run / EVENTS), purge_step=begin, filename_suffix=f".{begin}")
        for epoch in before:
            self._line(epoch)

    def note(self, epoch: Epoch) -> None:
        """Write an epoch."""
        self._line(epoch)
        for name, value in asdict(epoch).items():
            if name != "number" and value is not None:
                self._events.add_scalar(name, value, epoch.number)
        self._events.flush()

    def _line(self, epoch: Epoch) -> None:
        self._lines.write(json.dumps(asdict(epoch)) + "\n")
        self._lines.flush()

    def __exit__(self, *_: object) -> None:
        """Close both."""
        self._lines.close()
        self._events.close()
