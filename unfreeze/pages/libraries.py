"""Whether the libraries that pages need are installed."""

from importlib.util import find_spec

ADVICE = "pip install 'unfreeze[report]'"


def has_libraries() -> bool:
    """Return whether Jinja2 and plotly are installed."""
    return find_spec("jinja2") is not None and find_spec("plotly") is not None
