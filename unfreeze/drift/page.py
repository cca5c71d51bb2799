"""The page of `unfreeze drift`: distances, distributions, and the images that are farthest away."""

import itertools
from typing import Any

from unfreeze.contract.drift.histogram import Histogram
from unfreeze.drift.images import DriftOfImages, SeenImage
from unfreeze.pages.rendering import plain_text, render, styled
from unfreeze.pages.thumbnails import jpeg_uri, thumbnail

_GRAY, _GREEN = "#7a8793", "#2f8f5b"
_SKIPPED = 50  # reasons on the page


def drift_page(found: DriftOfImages) -> str:
    """Return the page as HTML, which needs no network.

    Args:
        found: what was compared.
    """
    reference = {one.name: one.histogram for one in found.reference.quantities}
    return render(
        "drift.html.j2",
        title=f"Drift of {found.model}",
        verdict=found.verdict,
        rows=found.drift.quantities,
        features=found.drift.features,
        figures={
            one.name: styled(_figure(one.name, reference[one.name], found))
            for one in found.drift.quantities
            if one.images and len(found.counts[one.name]) > 1
        },
        farthest_title=found.farthest_title,
        farthest=[_picture(one) for one in found.farthest],
        skipped=found.skipped[:_SKIPPED],
    )


def _figure(name: str, histogram: Histogram, found: DriftOfImages) -> dict[str, Any]:
    names = [plain_text(text) for text in _bins(histogram, found.labels)]
    traces = [
        {"type": "bar", "name": title, "x": names, "y": _shares(counts), "marker": {"color": color}}
        for title, counts, color in (
            ("validation images", histogram.counts, _GRAY),
            ("these images", found.counts[name], _GREEN),
        )
    ]
    layout = {
        "barmode": "group",
        "height": 300,
        "legend": {"orientation": "h", "y": 1.15},
        "xaxis": {"type": "category", "title": {"text": name}},
        "yaxis": {"title": {"text": "share"}, "tickformat": ".0%"},
    }
    return {"data": traces, "layout": layout}


def _shares(counts: tuple[int, ...]) -> list[float]:
    total = max(1, sum(counts))
    return [count / total for count in counts]


def _bins(histogram: Histogram, labels: tuple[str, ...]) -> list[str]:
    """Name the bins: by their label, or by the values between their edges."""
    if histogram.edges is None:
        return list(labels)
    edges = [f"{edge:.3g}" for edge in histogram.edges]
    inner = [f"{low} to {high}" for low, high in itertools.pairwise(edges)]
    return [f"below {edges[0]}", *inner, f"{edges[-1]} and more"] if edges else ["all"]


def _picture(image: SeenImage) -> dict[str, Any]:
    shown = thumbnail(image.path)
    score = "" if image.ood_score is None else f"score {image.ood_score:.3g}"
    lines = [f"{image.label} ({image.confidence:.0%})", *filter(None, [score])]
    return {
        "source": None if shown is None else jpeg_uri(shown),
        "heat": None,
        "lines": lines,
        "path": str(image.path),
    }
