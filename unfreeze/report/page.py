"""Put the report of a run together."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.contract.counted import counted
from unfreeze.pages.rendering import render, styled
from unfreeze.report.figures import (
    clustered_order,
    confusion_figure,
    coverage_figure,
    depth_figure,
    epochs_figure,
    reliability_figure,
)
from unfreeze.report.run_files import PredictedImage, RunFiles
from unfreeze.report.thumbnails import thumbnail

_MISTAKES, _UNSURE, _SUSPECTS = 24, 12, 48  # images of each gallery: with 160 pixels, about 6 KB each
_CLASSES = 100  # of a confusion matrix that can still be looked at
_LISTED_ERRORS = 2000
_CONFIDENCE = 0.95
_SPLITS = {"train": "training", "val": "validation", "test": "test"}
_KINDS = {
    "label": "probably another label",
    "duplicate": "same bytes as an image with another label",
    "outlier": "far from every class",
    "blank": "nearly one color",
}

Picture = dict[str, Any]
Load = Callable[[str], str | None]


def report_page(run: RunFiles) -> str:
    """Return the report as HTML, which needs no network. Images that were moved or deleted are left out."""
    metrics, labels = run.metrics, run.metrics["labels"]
    load = partial(_load, Path(run.facts["data"]), run.facts["preprocess"].get("deep_range"))
    validated = run.validated
    confusion = np.array(metrics["confusion"], np.int64)
    shown = _shown_classes(confusion)
    figures = {
        "depth": depth_figure(metrics),
        "epochs": epochs_figure(metrics),
        "reliability": reliability_figure(validated) if validated else None,
        "coverage": coverage_figure(validated, metrics["abstain"]) if validated else None,
        "confusion": confusion_figure(confusion[np.ix_(shown, shown)], [labels[row] for row in shown]),
    }
    wrong = sorted((one for one in validated if not one.is_correct), key=lambda one: -one.confidence)
    unsure = sorted((one for one in validated if one.is_correct), key=lambda one: one.confidence)
    return render(
        "report.html.j2",
        title=f"{metrics['backbone']} on {Path(run.facts['data']).name}",
        metrics=metrics,
        facts=_facts(metrics),
        figures={name: styled(figure) for name, figure in figures.items() if figure is not None},
        confused=f"{len(shown)} of {len(labels)} classes, those with the most errors"
        if len(shown) < len(labels)
        else "",
        classes=_classes(metrics, confusion),
        errors=[[one.path, one.label, one.predicted, one.confidence] for one in wrong[:_LISTED_ERRORS]],
        mistakes=[_predicted(one, load) for one in wrong[:_MISTAKES]],
        mistaken=len(wrong),
        unsure=[_predicted(one, load) for one in unsure[:_UNSURE]],
        suspects=[_suspect(line, load) for line in run.issues[:_SUSPECTS]],
        issues=_issue_counts(run.issues),
        splits=[(_SPLITS[name], count) for name, count in metrics["images"].items()],
        options={name: value for name, value in metrics["options"].items() if value not in (None, "", False)},
        provenance=run.facts["provenance"],
    )


def _load(root: Path, deep_range: Sequence[float] | None, path: str) -> str | None:
    return thumbnail(root / path, tuple(deep_range) if deep_range else None)


def _facts(metrics: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the figures at the top: a name, the value, and what belongs to it."""
    errors = metrics["standard_errors"]
    facts = []
    for split, name in (("val", "Validation accuracy"), ("probe_val", "Probe alone"), ("test", "Test accuracy")):
        if f"{split}_accuracy" in metrics:
            images = metrics["images"]["test" if split == "test" else "val"]
            facts.append((name, f"{metrics[f'{split}_accuracy']:.1%}", _interval(metrics[f"{split}_accuracy"], images)))
            balanced = f"{split}_balanced_accuracy"
            spread = f"standard error {errors[balanced]:.1%}"
            facts.append((f"{name.replace(' accuracy', '')}, balanced", f"{metrics[balanced]:.1%}", spread))
    calibration = metrics["calibration_error"]
    before = f"{calibration['before']:.3f} before temperature scaling"
    facts.append(("Calibration error", f"{calibration['after']:.3f}", before))
    share = metrics["trained_parameters"] / metrics["parameters"]
    size = f"{share:.1%} of {metrics['parameters']:,}"
    facts.append(("Trained parameters", f"{metrics['trained_parameters']:,}", size))
    where = f"{metrics['device']}, {metrics['precision']}"
    return [*facts, ("Duration", f"{metrics['seconds']:.0f} s", where)]


def _interval(accuracy: float, images: int) -> str:
    """Describe the 95 % confidence interval of an accuracy (Wilson 1927)."""
    from scipy.stats import binomtest

    found = binomtest(round(accuracy * images), images).proportion_ci(_CONFIDENCE, method="wilson")
    return f"95 % interval {found.low:.1%} to {found.high:.1%}, {counted(images, 'image')}"


def _shown_classes(confusion: np.ndarray) -> list[int]:
    """Choose the classes of the confusion matrix, and put those together that are confused with each other."""
    errors = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * confusion.diagonal()
    chosen = np.sort(np.argsort(-errors, kind="stable")[:_CLASSES])
    if errors.any() and len(chosen) > 2:  # noqa: PLR2004 - two have one order
        chosen = chosen[clustered_order(confusion[np.ix_(chosen, chosen)])]
    return [int(row) for row in chosen]


def _classes(metrics: dict[str, Any], confusion: np.ndarray) -> list[dict[str, Any]]:
    labels = metrics["labels"]
    others = confusion - np.diag(confusion.diagonal())
    rows = []
    for index, label in enumerate(labels):
        scores, worst = metrics["per_class"][label], int(others[index].argmax())
        confused = f"{labels[worst]} ({others[index, worst]})" if others[index, worst] else ""
        rows.append({"label": label, "confused": confused, **scores})
    return rows


def _predicted(one: PredictedImage, load: Load) -> Picture:
    lines = [f"predicted {one.predicted} ({one.confidence:.0%})"]
    if not one.is_correct:
        lines.append(f"labeled {one.label} ({one.label_probability:.0%})")
    return {"source": load(one.path), "lines": lines, "path": one.path}


def _suspect(line: dict[str, str], load: Load) -> Picture:
    lines = [_KINDS.get(line["kind"], line["kind"]), f"{_SPLITS[line['split']]}: labeled {line['label']}"]
    if line["suggested_label"] != line["label"]:
        lines.append(f"suggested: {line['suggested_label']} ({float(line['suggested_probability']):.0%})")
    return {"source": load(line["path"]), "lines": [*lines, *filter(None, [line["detail"]])], "path": line["path"]}


def _issue_counts(issues: Iterable[dict[str, str]]) -> list[tuple[str, int]]:
    kinds = [line["kind"] for line in issues]
    return [(text, kinds.count(kind)) for kind, text in _KINDS.items() if kind in kinds]
