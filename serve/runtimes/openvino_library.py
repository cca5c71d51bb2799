"""The library OpenVINO: how it is imported, its one `Core`, and its errors."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from unfreeze.contract.errors import first_line

DEVICE = "CPU"
_TELEMETRY = "openvino_telemetry"


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hide OpenVINO's telemetry: otherwise each import is reported to its publisher, unless the user has opted out."""
    known = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # importing it now fails, which OpenVINO expects
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
        if known is not None:
            sys.modules[_TELEMETRY] = known


with _without_telemetry():
    import openvino

__all__ = ["DEVICE", "error_reason", "openvino", "openvino_core", "supports_bfloat16"]


def supports_bfloat16() -> bool:
    """Return whether this CPU has instructions for bfloat16."""
    return "BF16" in openvino_core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")


@cache
def openvino_core() -> openvino.Core:
    """Return OpenVINO's entry point, which all models share."""
    return openvino.Core()


def error_reason(error: BaseException) -> str:
    """Shorten an error to what happened: OpenVINO's messages begin with a line for each function of its source."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from ")]
    return first_line(RuntimeError("\n".join(lines))) if lines else first_line(error)
