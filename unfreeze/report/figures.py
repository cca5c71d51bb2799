"""The figures of a report, as plotly's JSON schema describes them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from unfreeze.contract.arrays import Int64
from unfreeze.pages.rendering import plain_text
from unfreeze.report.run_files import PredictedImage
from unfreeze.tune.evaluation.metrics import CONFIDENCE_BINS, confidence_bins

_GREEN, _GRAY, _BLUE = "#2f8f5b", "#7a8793", "#3b78c2"
_POINTS = 200
_LEGEND = {"orientation": "h", "y": 1.15}

Figure = dict[str, Any]


def depth_figure(metrics: dict[str, Any]) -> Figure | None:
    """Draw cross-validated accuracy against depth, and all candidates; None if nothing was compared."""
    survey, candidates = metrics["survey"], metrics["candidates"]
    if not survey and not candidates:
        return None
    prefix = "balanced_" if metrics.get("metric") == "balanced" else ""
    names = [depth["cut"] for depth in survey] or list(dict.fromkeys(one["cut"] for one in candidates))
    # Candidates train everything behind their cut; "all" is before the first one.
    names = (["all"] if any(one["cut"] == "all" for one in candidates) else []) + [
        name for name in names if name != "all"
    ]
    behind = {one["cut"]: one["trained_parameters"] for one in survey}
    groups = {
        "candidates": [one for one in candidates if not one["chosen"]],
        "chosen": [one for one in candidates if one["chosen"]],
    }
    data = (
        [
            _scores(
                "frozen features, linear classifier", survey, prefix, {"mode": "lines+markers", "color": _GRAY}, behind
            )
        ]
        if survey
        else []
    )
    styles = {"candidates": {"mode": "markers", "color": _BLUE}, "chosen": {"mode": "markers", "color": _GREEN}}
    data += [_scores(name, group, prefix, styles[name], behind) for name, group in groups.items() if group]
    layout = {
        "height": 420,
        "legend": _LEGEND,
        "xaxis": {"title": {"text": "first trained block"}, "type": "category", "categoryarray": names},
        "yaxis": {"title": {"text": f"cross-validated {prefix.replace('_', ' ')}accuracy"}},
    }
    return {"data": data, "layout": layout}


def _scores(
    name: str, scores: Sequence[dict[str, Any]], prefix: str, style: dict[str, str], behind: dict[str, int]
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "name": name,
        "x": [one["cut"] for one in scores],
        "y": [one[f"{prefix}accuracy"] for one in scores],
        "error_y": {"type": "data", "array": [one[f"{prefix}standard_error"] for one in scores], "thickness": 1.2},
        "mode": style["mode"],
        "marker": {"color": style["color"], "size": 12 if name == "chosen" else 8},
        "line": {"color": style["color"], "width": 1.5},
        "hovertext": [plain_text(_described(one, behind)) for one in scores],
        "hoverinfo": "y+text",
    }


def _described(score: dict[str, Any], behind: dict[str, int]) -> str:
    """Describe a score; `behind` has the numbers of parameters from a cut on, where the cuts were compared."""
    size = f"; {behind[score['cut']]:,} parameters from there on" if score["cut"] in behind else ""
    if "recipe" not in score:
        return f"features before {score['cut']}{size}"
    rate = f" at learning rate {score['learning_rate']:g}" if score["learning_rate"] else ""
    return f"{score['recipe']} from {score['cut']}{rate}{size}; {score['images']:,} held-out images"


def epochs_figure(metrics: dict[str, Any]) -> Figure | None:
    """Draw the loss of every epoch; None if no block was trained."""
    epochs = metrics["epochs"]
    if not epochs:
        return None
    lines = {"training loss": ("loss", _GREEN), "loss on held-out images": ("held_out_loss", _BLUE)}
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": [epoch["number"] for epoch in epochs],
            "y": [epoch[key] for epoch in epochs],
            "line": {"color": color},
        }
        for name, (key, color) in lines.items()
        if epochs[0].get(key) is not None
    ]
    layout = {
        "height": 320,
        "legend": _LEGEND,
        "xaxis": {"title": {"text": "epoch"}, "dtick": max(1, len(epochs) // 10)},
        "yaxis": {"title": {"text": "loss"}},
    }
    return {"data": data, "layout": layout}


def reliability_figure(images: Sequence[PredictedImage]) -> Figure:
    """Draw accuracy against confidence, before and after temperature scaling, in 15 bins."""
    correct = np.array([one.is_correct for one in images])
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "calibrated perfectly",
            "x": [0, 1],
            "y": [0, 1],
            "line": {"color": _GRAY, "dash": "dot"},
            "hoverinfo": "skip",
        }
    ]
    for name, key, color in (
        ("before temperature scaling", "uncalibrated_confidence", _BLUE),
        ("after", "confidence", _GREEN),
    ):
        confidence = np.array([getattr(one, key) for one in images])
        bins = confidence_bins(confidence)
        counts = np.bincount(bins, minlength=CONFIDENCE_BINS)
        used = np.flatnonzero(counts)
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "x": _rounded(np.bincount(bins, confidence, CONFIDENCE_BINS)[used] / counts[used]),
                "y": _rounded(np.bincount(bins, correct, CONFIDENCE_BINS)[used] / counts[used]),
                "marker": {"color": color, "size": _rounded(6 + 14 * np.sqrt(counts[used] / counts.max()))},
                "line": {"color": color, "width": 1},
                "hovertext": [f"{count:,} images" for count in counts[used].tolist()],
            }
        )
    layout = {
        "height": 420,
        "legend": _LEGEND,
        "xaxis": {"title": {"text": "confidence"}, "range": [0, 1.02]},
        "yaxis": {"title": {"text": "share of correct predictions"}, "range": [0, 1.05]},
    }
    return {"data": data, "layout": layout}


def coverage_figure(images: Sequence[PredictedImage], abstain: dict[str, Any] | None) -> Figure:
    """Draw the precision of the most confident predictions against their share, and the abstain threshold if any."""
    ordered = sorted(images, key=lambda one: -one.confidence)
    precision = np.cumsum([one.is_correct for one in ordered]) / np.arange(1, len(ordered) + 1)
    kept = np.unique(np.linspace(0, len(ordered) - 1, min(_POINTS, len(ordered))).astype(int))
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "precision",
            "x": _rounded((kept + 1) / len(ordered)),
            "y": _rounded(precision[kept]),
            "hovertext": [f"confidence of {ordered[row].confidence:.3f} or more" for row in kept],
            "line": {"color": _GREEN},
        }
    ]
    if abstain and abstain["threshold"] is not None:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": f"abstain below {abstain['threshold']:.3f}",
                "x": [abstain["coverage"]],
                "y": [abstain["precision"]],
                "marker": {"color": _BLUE, "size": 12},
            }
        )
    layout = {
        "height": 420,
        "legend": _LEGEND,
        "xaxis": {"title": {"text": "share of images answered"}, "range": [0, 1.02]},
        "yaxis": {"title": {"text": "share of correct answers"}},
    }
    return {"data": data, "layout": layout}


def confusion_figure(confusion: Int64[np.ndarray, "c c"], labels: Sequence[str]) -> Figure:
    """Draw the confusion matrix; colors are shares of the images of a true class.

    Args:
        confusion: numbers of images; rows are true classes, columns predicted ones.
        labels: names of the classes, in the order of the matrix.
    """
    totals = confusion.sum(axis=1, keepdims=True)
    side = max(360, min(900, 120 + 24 * len(labels)))
    many = len(labels) > 25  # noqa: PLR2004 - numbers no longer fit into the cells
    names = [plain_text(label) for label in labels]
    heat = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": _rounded(confusion / np.maximum(totals, 1)),
        "customdata": confusion.tolist(),
        "colorscale": [[0, "rgba(59,120,194,0.03)"], [1, "rgba(59,120,194,1)"]],
        "zmin": 0,
        "zmax": 1,
        "hovertemplate": "true %{y}<br>predicted %{x}<br>%{customdata} images (%{z:.1%})<extra></extra>",
        "showscale": False,
        "xgap": 0 if many else 2,
        "ygap": 0 if many else 2,
    }
    if not many:
        heat |= {"text": confusion.tolist(), "texttemplate": "%{text}"}
    layout = {
        "height": side,
        "xaxis": {"title": {"text": "predicted"}, "type": "category"},
        "yaxis": {"title": {"text": "true"}, "type": "category", "autorange": "reversed"},
    }
    return {"data": [heat], "layout": layout}


def clustered_order(confusion: Int64[np.ndarray, "c c"]) -> list[int]:
    """Order classes so that those that are confused with each other are neighbors.

    Average linkage on the shares of mutual confusion, with the leaves in their optimal order (Bar-Joseph, Gifford and
    Jaakkola 2001, Bioinformatics 17, supplement 1).
    """
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    if len(confusion) < 3:  # noqa: PLR2004 - there is one order
        return list(range(len(confusion)))
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    distances = 1 - (shares + shares.T) / 2
    np.fill_diagonal(distances, 0)
    condensed = squareform(distances, checks=False)
    order: list[int] = leaves_list(optimal_leaf_ordering(linkage(condensed, "average"), condensed)).tolist()
    return order


def _rounded(values: np.ndarray) -> Any:
    return np.round(values, 4).tolist()
