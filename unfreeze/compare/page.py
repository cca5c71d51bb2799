"""The page of a comparison: plot and table in one HTML file."""

from collections.abc import Sequence

import plotly.graph_objects as go

from unfreeze.compare.cells import COLUMNS, cells, summary
from unfreeze.compare.result import Comparison, Row
from unfreeze.pages.rendering import plain_text, render, styled
from unfreeze.tune.evaluation.accuracy import METRIC_NAMES

_FRONT, _OTHER = "#2f8f5b", "#7a8793"


def comparison_page(comparison: Comparison) -> str:
    """Return the page as HTML, which needs no network."""
    chosen = comparison.recommended_row
    return render(
        "compare.html.j2",
        title=f"Backbones for {comparison.data}",
        comparison=comparison,
        summary=summary(comparison),
        figure=styled(_figure(comparison).to_plotly_json()),
        columns=COLUMNS,
        rows=[{"cells": cells(row), "recommended": row.backbone == chosen} for row in comparison.rows],
    )


def _figure(comparison: Comparison) -> go.Figure:
    plotted = [row for row in comparison.rows if row.accuracy is not None and row.latency_ms is not None]
    groups = {
        "Pareto front": [row for row in plotted if row.on_front],
        "compared on all images": [row for row in plotted if row.status == "compared" and not row.on_front],
        "dropped before": [row for row in plotted if row.status == "dropped"],
    }
    figure = go.Figure([_trace(name, rows, comparison) for name, rows in groups.items() if rows])
    if comparison.budget_ms is not None:
        figure.add_vline(x=comparison.budget_ms, line={"dash": "dot", "color": _OTHER}, annotation_text="budget")
    figure.update_xaxes(type="log", title="latency of one image, ms")
    figure.update_yaxes(title=f"cross-validated {METRIC_NAMES[comparison.metric]}")
    figure.update_layout(height=480, legend={"orientation": "h", "y": 1.12}, template="none")
    return figure


def _trace(name: str, rows: Sequence[Row], comparison: Comparison) -> go.Scatter:
    is_front, is_dropped = name == "Pareto front", name == "dropped before"
    found = [estimate for row in rows if (estimate := row.compared_by(comparison.metric)) is not None]
    return go.Scatter(
        name=name,
        x=[row.latency_ms for row in rows],
        y=[estimate.mean for estimate in found],
        error_y={"type": "data", "array": [estimate.standard_error for estimate in found], "thickness": 1.2},
        mode="lines+markers+text" if is_front else "markers+text",
        line={"color": _FRONT, "width": 1.5},
        marker={
            "size": 10,
            "color": _FRONT if is_front else _OTHER,
            "symbol": "circle-open" if is_dropped else "circle",
        },
        text=[row.backbone for row in rows],
        textposition="bottom right",
        hovertext=[_details(row) for row in rows],
        hoverinfo="text",
    )


def _details(row: Row) -> str:
    titled = zip(COLUMNS, cells(row), strict=True)
    return "<br>".join(f"{column.title}: {plain_text(text)}" for column, text in titled if text)
