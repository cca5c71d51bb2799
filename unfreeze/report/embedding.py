"""The map of a dataset: images that the pretrained network takes for similar are close to each other."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unfreeze.contract.arrays import Float32
from unfreeze.contract.errors import CheckpointError
from unfreeze.pages.rendering import plain_text
from unfreeze.report.figures import Figure
from unfreeze.tune.artifacts.embedding import EMBEDDING_FILE

Projection = Literal["pca", "tsne"]
_COLORED = 10  # classes with a color and an entry in the legend of their own
_COLORS = ("#4477aa", "#ee6677", "#228833", "#b8a000", "#66b3cc", "#aa3377", "#cc7711", "#777777", "#7755cc", "#118877")
_MOST_IN_SVG = 1500  # beyond them, panning is slow unless WebGL draws
_PERPLEXITY = 30.0


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Images in feature space.

    Args:
        paths: of N images, relative to the dataset's folder or absolute.
        splits: "train" or "val".
        labels: names of their classes.
        components: principal components, largest first, [N, K].
    """

    paths: tuple[str, ...]
    splits: tuple[str, ...]
    labels: tuple[str, ...]
    components: Float32[np.ndarray, "n k"]


def read_embedding(folder: Path) -> Embedding | None:
    """Read the embedding of a run; None if it has none, as runs of earlier versions.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / EMBEDDING_FILE
    if not path.is_file():
        return None
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            texts = (tuple(file[name].tolist()) for name in ("path", "split", "label"))
            paths, splits, labels = texts
            return Embedding(paths=paths, splits=splits, labels=labels, components=file["components"].astype("f4"))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{path} is damaged: {error}; tune again") from error


def possible(embedding: Embedding, projection: Projection) -> Projection:
    """Return the projection to use: t-SNE needs more images than it has neighbors."""
    return projection if len(embedding.paths) > _PERPLEXITY else "pca"


def project(embedding: Embedding, projection: Projection) -> Float32[np.ndarray, "n 2"]:
    """Map images to a plane.

    Args:
        embedding: the images.
        projection: a possible one: "pca" takes the two largest components. "tsne" keeps neighbors together instead of
            distances (van der Maaten and Hinton 2008, Journal of Machine Learning Research 9) and takes up to minutes.
    """
    points = embedding.components
    if projection == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(_PERPLEXITY, (len(points) - 1) / 3)
        found: Float32[np.ndarray, "n 2"] = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(
            points
        )
        return found
    return np.pad(points[:, :2], ((0, 0), (0, max(0, 2 - points.shape[1]))))


def embedding_figure(
    embedding: Embedding, plane: Float32[np.ndarray, "n 2"], wrong: frozenset[str], classes: Sequence[str]
) -> Figure:
    """Draw the map: training images as dots, validation images as circles, those classified wrong as crosses.

    Args:
        embedding: the images.
        plane: where they are.
        wrong: paths of the validation images that are classified wrong.
        classes: names of all classes.
    """
    colors = {label: _COLORS[index % len(_COLORS)] for index, label in enumerate(classes)}
    pairs = zip(embedding.paths, embedding.splits, strict=True)
    kinds = np.array(["wrong" if path in wrong else split for path, split in pairs])
    symbols = {"train": "circle", "val": "circle-open", "wrong": "x"}
    labels = np.array(embedding.labels)
    groups: list[tuple[str, np.ndarray]]
    if len(classes) <= _COLORED:
        groups = [(label, np.flatnonzero(labels == label)) for label in classes]
    else:
        names = {"train": "training images", "val": "validation images", "wrong": "classified wrong"}
        groups = [(name, np.flatnonzero(kinds == kind)) for kind, name in names.items()]
    data = [_points(name, rows, plane, labels, kinds, colors, symbols) for name, rows in groups if len(rows)]
    axis = {"showticklabels": False, "title": {"text": ""}}
    layout = {
        "height": 560,
        "legend": {"orientation": "h", "y": 1.08},
        "hovermode": "closest",
        "dragmode": "pan",
        "xaxis": axis,
        "yaxis": axis | {"scaleanchor": "x"},
    }
    return {"data": data, "layout": layout}


def uses_webgl(figure: Figure) -> bool:
    """Return whether a figure is drawn by WebGL."""
    return any(trace["type"] == "scattergl" for trace in figure["data"])


def _points(
    name: str,
    rows: np.ndarray,
    plane: np.ndarray,
    labels: np.ndarray,
    kinds: np.ndarray,
    colors: dict[str, str],
    symbols: dict[str, str],
) -> dict[str, Any]:
    return {
        "type": "scattergl" if len(plane) > _MOST_IN_SVG else "scatter",
        "mode": "markers",
        "name": plain_text(name),
        "x": np.round(plane[rows, 0], 3).tolist(),
        "y": np.round(plane[rows, 1], 3).tolist(),
        "customdata": rows.tolist(),
        "hoverinfo": "none",
        "marker": {
            "size": [9 if kind == "wrong" else 6 for kind in kinds[rows]],
            "color": [colors[label] for label in labels[rows]],
            "symbol": [symbols[kind] for kind in kinds[rows]],
            "opacity": 0.8,
        },
    }
