"""Read what a finished run wrote."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfreeze.contract.errors import CheckpointError
from unfreeze.tune.artifacts.checkpoint import FACTS_FILE, check_finished, read_metrics
from unfreeze.tune.artifacts.predictions import PREDICTIONS_FILE
from unfreeze.tune.data.images import VAL
from unfreeze.tune.issues.issue_file import ISSUES_FILE


@dataclass(frozen=True, kw_only=True)
class PredictedImage:
    """What the network predicts for an image.

    Args:
        path: of the image, relative to the dataset's folder or absolute.
        split: "val" or "test".
        label: name of the true class.
        predicted: name of the predicted class.
        confidence: its calibrated probability, 0 to 1.
        uncalibrated_confidence: the highest probability before temperature scaling.
        label_probability: calibrated probability of the true class.
    """

    path: str
    split: str
    label: str
    predicted: str
    confidence: float
    uncalibrated_confidence: float
    label_probability: float

    @property
    def is_correct(self) -> bool:
        """Whether the prediction is right."""
        return self.label == self.predicted


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The files of a run.

    Args:
        folder: of the run.
        facts: contents of `run.json`.
        metrics: contents of `metrics.json`.
        predictions: of the validation and test images; empty in runs of earlier versions.
        issues: lines of `label_issues.csv`; empty in runs of earlier versions.
    """

    folder: Path
    facts: dict[str, Any]
    metrics: dict[str, Any]
    predictions: tuple[PredictedImage, ...]
    issues: tuple[dict[str, str], ...]

    @property
    def validated(self) -> tuple[PredictedImage, ...]:
        """Predictions for the validation images."""
        return tuple(one for one in self.predictions if one.split == VAL)


def read_run(folder: Path) -> RunFiles:
    """Read a finished run.

    Args:
        folder: that `unfreeze tune` wrote.

    Raises:
        CheckpointError: it contains no finished run, or a file of it is damaged.
    """
    check_finished(folder)
    try:
        return RunFiles(
            folder=folder,
            facts=json.loads((folder / FACTS_FILE).read_bytes()),
            metrics=read_metrics(folder),
            predictions=tuple(_predicted(line) for line in _lines(folder / PREDICTIONS_FILE)),
            issues=_lines(folder / ISSUES_FILE),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} is damaged: {error}; tune again") from error


def _lines(file: Path) -> tuple[dict[str, str], ...]:
    if not file.is_file():
        return ()
    with file.open(encoding="utf-8", newline="") as text:
        return tuple(csv.DictReader(text))


def _predicted(line: dict[str, str]) -> PredictedImage:
    shares = ("confidence", "uncalibrated_confidence", "label_probability")
    return PredictedImage(
        path=line["path"],
        split=line["split"],
        label=line["label"],
        predicted=line["predicted"],
        **{name: float(line[name]) for name in shares},
    )
