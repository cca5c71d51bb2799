"""Logs: one line an event on standard error, for people or as JSON, with the request's id wherever one is concerned."""

import logging
import sys
import warnings
from dataclasses import dataclass
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

from unfreeze.serve.observability.request_ids import request_id

LogFormat = Literal["human", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
_OURS = "unfreeze"
_HUMAN = logging.Formatter("%(asctime)s %(levelname)-7s %(line)s")
_JSON = JsonFormatter(
    ["levelname", "name", "message"], timestamp="time", rename_fields={"levelname": "level", "name": "logger"}
)


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """What is logged, and how.

    Args:
        log_format: "human", or "json" for one object a line.
        log_level: the least that is logged; "debug" has a line for every request.
    """

    log_format: LogFormat = "human"
    log_level: LogLevel = "info"


def start_logging(options: LogOptions) -> None:
    """Log to standard error from now on.

    Other packages' lines below `info` are left out: Pillow's tell what is in an image.

    Args:
        options: what, and how.
    """
    level = logging.getLevelNamesMapping()[options.log_level.upper()]
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_request)
    if options.log_format == "json":
        handler.setFormatter(_JSON)
    else:
        handler.addFilter(_add_line)
        handler.setFormatter(_HUMAN)
    logging.basicConfig(level=max(level, logging.INFO), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    warnings.filterwarnings("ignore", module="PIL")  # each text that a hostile image provokes would be kept for ever
    logging.getLogger(_OURS).setLevel(level)


def _add_request(record: logging.LogRecord) -> bool:
    """Add the id of the request that is being answered, if there is one."""
    name = request_id.get()
    if name:
        record.request_id = name
    return True


def _add_line(record: logging.LogRecord) -> bool:
    """Add the message in one line, and the request's id behind it: callers cannot write lines of their own."""
    name = getattr(record, "request_id", "")
    record.line = " ".join(record.getMessage().splitlines()) + f" [{name}]" * bool(name)
    return True
