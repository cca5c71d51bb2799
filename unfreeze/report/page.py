"""Put the report of a run together."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.contract.counted import counted
from unfreeze.contract.images.depth import DeepRange
from unfreeze.contract.reporting import Reporter, Silent
from unfreeze.export.model_card import card_sections
from unfreeze.pages.rendering import render, styled
from unfreeze.pages.thumbnails import jpeg_uri, thumbnail
from unfreeze.report.embedding import (
    Embedding,
    Projection,
    embedding_figure,
    possible,
    project,
    read_embedding,
    uses_webgl,
)
from unfreeze.report.figures import (
    Figure,
    clustered_order,
    confusion_figure,
    coverage_figure,
    depth_figure,
    epochs_figure,
    reliability_figure,
)
from unfreeze.report.network_results import NetworkResults, run_network
from unfreeze.report.run_files import PredictedImage, RunFiles
from unfreeze.report.thumbnails import heat_uri, tile_sheets
from unfreeze.tune.data.images import SPLIT_WORDS

_MISTAKES, _UNSURE, _SUSPECTS = 24, 12, 48  # images of each gallery: with 160 pixels, about 6 KB each
_CLASSES = 100  # of a confusion matrix that can still be looked at
_LISTED_ERRORS = 2000
_CONFIDENCE = 0.95
_KINDS = {
    "label": "probably another label",
    "duplicate": "same image as one with another label",
    "outlier": "far from every class",
    "blank": "nearly one color",
    "small": "much smaller than the others",
}

Picture = dict[str, Any]


def report_page(run: RunFiles, projection: Projection = "pca", reporter: Reporter | None = None) -> str:
    """Return the report as HTML, which needs no network. Images that were moved or deleted are left out.

    Args:
        run: the files of the run.
        projection: how images are mapped to a plane.
        reporter: shows progress.

    Raises:
        CheckpointError: a file of the run is damaged.
    """
    metrics, labels, validated = run.metrics, run.metrics["labels"], run.validated
    wrong = sorted((one for one in validated if not one.is_correct), key=lambda one: -one.confidence)
    unsure = sorted((one for one in validated if one.is_correct), key=lambda one: one.confidence)[:_UNSURE]
    mistakes = wrong[:_MISTAKES]
    album = _Album(run, labels, [*mistakes, *unsure])
    confusion = np.array(metrics["confusion"], np.int64)
    shown = _shown_classes(confusion)
    embedding = read_embedding(run.folder)
    used = projection if embedding is None else possible(embedding, projection)
    figures = {
        "depth": depth_figure(metrics),
        "epochs": epochs_figure(metrics),
        "reliability": reliability_figure(validated) if validated else None,
        "coverage": coverage_figure(validated, metrics["abstain"]) if validated else None,
        "confusion": confusion_figure(confusion[np.ix_(shown, shown)], [labels[row] for row in shown]),
        "embedding": _embedding_figure(embedding, used, wrong, labels),
    }
    return render(
        "report.html.j2",
        title=f"{metrics['backbone']} on {Path(run.facts['data']).name}",
        metrics=metrics,
        facts=_facts(metrics, album.network),
        figures={name: styled(figure) for name, figure in figures.items() if figure is not None},
        confused=f"{len(shown)} of {len(labels)} classes, those with the most errors"
        if len(shown) < len(labels)
        else "",
        classes=_classes(metrics, confusion),
        errors=[[one.path, one.label, one.predicted, one.confidence] for one in wrong[:_LISTED_ERRORS]],
        mistakes=[album.predicted(one) for one in mistakes],
        mistaken=len(wrong),
        unsure=[album.predicted(one) for one in unsure],
        looked=bool(album.network and album.network.saliency),
        suspects=[album.suspect(line) for line in run.issues[:_SUSPECTS]],
        issues=_issue_counts(run.issues),
        projection=used,
        uses_webgl=figures["embedding"] is not None and uses_webgl(figures["embedding"]),
        sizes=metrics.get("sizes"),
        places=None if embedding is None else _places(embedding, album, run, reporter or Silent()),
        splits=[(SPLIT_WORDS[name], count) for name, count in metrics["images"].items()],
        card=[asdict(section) for section in card_sections(metrics, run.facts["provenance"])],
        options={name: value for name, value in metrics["options"].items() if value not in (None, "", False)},
    )


class _Album:
    """The images of a report.

    Args:
        run: the files of the run.
        labels: of the classes.
        looked_at: images for which to compute where the network looked.
    """

    def __init__(self, run: RunFiles, labels: list[str], looked_at: Iterable[PredictedImage]) -> None:
        self.root = Path(run.facts["data"])
        deep_range = run.facts["preprocess"].get("deep_range")
        self.deep_range: DeepRange | None = tuple(deep_range) if deep_range else None
        numbers = {label: number for number, label in enumerate(labels)}
        images = [(self.root / one.path, numbers[one.predicted]) for one in looked_at]
        self.network: NetworkResults | None = run_network(run.folder, images)

    def predicted(self, one: PredictedImage) -> Picture:
        """Return an image with its prediction."""
        lines = [f"predicted {one.predicted} ({one.confidence:.0%})"]
        if not one.is_correct:
            lines.append(f"labeled {one.label} ({one.label_probability:.0%})")
        return self._picture(one.path, lines)

    def suspect(self, line: dict[str, str]) -> Picture:
        """Return an image with what is suspicious about it."""
        lines = [_KINDS.get(line["kind"], line["kind"]), f"{SPLIT_WORDS[line['split']]}: labeled {line['label']}"]
        if line["suggested_label"] != line["label"]:
            lines.append(f"suggested: {line['suggested_label']} ({float(line['suggested_probability']):.0%})")
        return self._picture(line["path"], [*lines, *filter(None, [line["detail"]])])

    def _picture(self, path: str, lines: list[str]) -> Picture:
        shown, file = thumbnail(self.root / path, self.deep_range), self.root / path
        heat = None
        if shown is not None and self.network is not None and file in self.network.saliency:
            heat = heat_uri(self.network.saliency[file], shown, self.network.spec)
        return {"source": None if shown is None else jpeg_uri(shown), "heat": heat, "lines": lines, "path": path}


def _embedding_figure(
    embedding: Embedding | None, projection: Projection, wrong: Iterable[PredictedImage], labels: list[str]
) -> Figure | None:
    if embedding is None:
        return None
    return embedding_figure(embedding, project(embedding, projection), frozenset(one.path for one in wrong), labels)


def _places(embedding: Embedding, album: _Album, run: RunFiles, reporter: Reporter) -> dict[str, Any]:
    """Return what is shown of an image of the map: a tile of a sheet, and a line of text."""
    paths = [album.root / path for path in embedding.paths]
    sheets = tile_sheets(paths, album.deep_range, reporter.track("drawing the images of the map", len(paths)))
    predicted = {one.path: one.predicted for one in run.validated}
    texts = []
    for path, split, label in zip(embedding.paths, embedding.splits, embedding.labels, strict=True):
        found = predicted.get(path, label)
        texts.append(f"{SPLIT_WORDS[split]}: {label}" + (f", predicted {found}" if found != label else ""))
    return {"sheets": sheets, "paths": embedding.paths, "texts": texts}


def _facts(metrics: dict[str, Any], network: NetworkResults | None) -> list[tuple[str, str, str]]:
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
    if network is not None:
        how = f"PyTorch, float32, {counted(network.threads, 'CPU thread')}, before export"
        facts.append(("Time of one image", f"{network.milliseconds:.1f} ms", how))
    where = f"{metrics['device']}, {metrics['precision']}"
    return [*facts, ("Tuned in", f"{metrics['seconds']:.0f} s", where)]


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
    training = metrics.get("class_images", {}).get("train", [""] * len(labels))  # runs of earlier versions have none
    rows = []
    for index, label in enumerate(labels):
        scores, worst = metrics["per_class"][label], int(others[index].argmax())
        confused = f"{labels[worst]} ({others[index, worst]})" if others[index, worst] else ""
        rows.append({"label": label, "confused": confused, "training": training[index], **scores})
    return rows


def _issue_counts(issues: Iterable[dict[str, str]]) -> list[tuple[str, int]]:
    kinds = [line["kind"] for line in issues]
    return [(text, kinds.count(kind)) for kind, text in _KINDS.items() if kind in kinds]
