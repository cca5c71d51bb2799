"""What is logged of a run, the same for every tracker."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unfreeze.contract.errors import CheckpointError
from unfreeze.contract.files import replacing
from unfreeze.tune.artifacts.checkpoint import FACTS_FILE, METRICS_FILE, check_finished, read_metrics
from unfreeze.tune.artifacts.predictions import PREDICTIONS_FILE
from unfreeze.tune.artifacts.run_folder import REPORT_FILE, TRACKING_FILE
from unfreeze.tune.issues.issue_file import ISSUES_FILE

_FILES = (REPORT_FILE, METRICS_FILE, FACTS_FILE, PREDICTIONS_FILE, ISSUES_FILE)
_FACTS = ("backbone", "weights", "recipe", "cut", "learning_rate", "metric", "batch_size", "device", "precision")


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A finished run.

    Args:
        folder: of the run.
        name: of the run: that of its folder.
        parameters: options that were given or chosen, by name.
        metrics: figures of the result, by name.
        epochs: figures of each epoch, by name; the first one is epoch 1.
        files: reports and tables, those that exist.
        known: what trackers stored when they logged the run before, by their names.
    """

    folder: Path
    name: str
    parameters: dict[str, str | float | bool]
    metrics: dict[str, float]
    epochs: tuple[dict[str, float], ...]
    files: tuple[Path, ...]
    known: dict[str, dict[str, str]] = field(default_factory=dict)

    def remember(self, tracker: str, values: dict[str, str]) -> None:
        """Store where a tracker has the run, so that the exported model is logged to the same one."""
        self.known[tracker] = values
        with replacing(self.folder / TRACKING_FILE) as file:
            file.write(json.dumps(self.known, indent=2).encode())


def read_tracked_run(folder: Path) -> TrackedRun:
    """Read a finished run.

    Raises:
        CheckpointError: the folder contains no finished run, or it is damaged.
    """
    check_finished(folder)
    metrics = read_metrics(folder)
    try:
        known = json.loads((folder / TRACKING_FILE).read_bytes()) if (folder / TRACKING_FILE).is_file() else {}
        return TrackedRun(
            folder=folder,
            name=folder.resolve().name,
            parameters=_parameters(metrics),
            metrics=_figures(metrics),
            epochs=tuple(
                {name: float(value) for name, value in epoch.items() if name != "number" and value is not None}
                for epoch in metrics["epochs"]
            ),
            files=tuple(folder / name for name in _FILES if (folder / name).is_file()),
            known=known,
        )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder} is damaged: {error}; tune again") from error


def _parameters(metrics: dict[str, Any]) -> dict[str, str | float | bool]:
    options = {name: value for name, value in metrics["options"].items() if value is not None}
    facts = {name: metrics[name] for name in _FACTS if metrics[name] is not None}
    counts = {f"images_{split}": count for split, count in metrics["images"].items()}
    return options | facts | counts | {"classes": len(metrics["labels"])}


def _figures(metrics: dict[str, Any]) -> dict[str, float]:
    figures = {name: value for name, value in metrics.items() if name.endswith("accuracy")}
    errors = {f"{name}_standard_error": value for name, value in metrics["standard_errors"].items()}
    chosen = {name: metrics[name] for name in ("val_nll", "temperature", "trained_parameters", "parameters", "seconds")}
    return {name: float(value) for name, value in (figures | errors | chosen).items()} | {
        "calibration_error": float(metrics["calibration_error"]["after"])
    }
