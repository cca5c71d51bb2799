"""Render a page from a template of this package."""

import json
from functools import cache
from importlib.resources import files
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
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["plotly"] = _plotly
    environment.filters["json"] = embedded_json
    return environment.get_template(template).render(**values)


def styled(figure: dict[str, Any]) -> dict[str, Any]:
    """Add colors that can be read on light and on dark pages to a figure.

    Args:
        figure: `data` and `layout`, as plotly's JSON schema describes them.
    """
    axis = {"gridcolor": "rgba(128,136,144,0.25)", "zeroline": False, "automargin": True}
    layout = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "color": "#808890"},
        "margin": {"t": 24, "r": 24, "b": 48, "l": 56},
        **figure["layout"],
    }
    axes = {name: axis | layout.get(name, {}) for name in ("xaxis", "yaxis")}
    return {"data": figure["data"], "layout": layout | axes}


def plain_text(text: str) -> str:
    """Escape what plotly would read as a tag in a figure's texts."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def embedded_json(value: Any) -> Markup:
    """Return JSON that can stand inside of a script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return Markup(text)  # noqa: S704 - no character of it can end the element


@cache
def _plotly() -> Markup:
    """Return the library that draws the figures, which is part of the package of the same name."""
    text = (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    return Markup(text)  # noqa: S704 - a library's own file
