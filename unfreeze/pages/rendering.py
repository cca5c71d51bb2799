"""Render a page from a template of this package."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render(template: str, **values: Any) -> str:
    """Fill a template.

    Args:
        template: name of a file in `templates/`.
        values: what it refers to; text is escaped.
    """
    loader = PackageLoader("unfreeze.pages")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template(template).render(**values)


def embedded(figure: Any) -> Markup:
    """Return a plotly figure as HTML with the library, so that the page needs no network.

    Args:
        figure: a `plotly.graph_objects.Figure`.
    """
    figure.update_layout(
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "color": "#808890"},  # readable on light and on dark pages
    )
    figure.update_xaxes(gridcolor="rgba(128,136,144,0.25)", zeroline=False)
    figure.update_yaxes(gridcolor="rgba(128,136,144,0.25)", zeroline=False)
    config = {"displaylogo": False, "responsive": True}
    return Markup(figure.to_html(full_html=False, include_plotlyjs=True, config=config))  # noqa: S704 - made by plotly
