"""Logging to standard error, one line per event, as text or JSON, with the request ID in lines about a request."""

import logging
import sys
import warnings
from dataclasses import dataclass
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

from unfreeze.serve.protocol.request_ids import request_id

LogFormat = Literal["human", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
_PACKAGE = "unfreeze"
_HUMAN = logging.Formatter("%(asctime)s %(levelname)-7s %(line)s")
_JSON = JsonFormatter(
    ["levelname", "name", "message"], timestamp="time", rename_fields={"levelname": "level", "name": "logger"}
)


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """Log format and level.

    Args:
        log_format: "human" for text, or "json" for one JSON object per line.
        log_level: minimum level; "debug" logs every request.
    """

    log_format: LogFormat = "human"
    log_level: LogLevel = "info"


def start_logging(options: LogOptions) -> None:
    """Configure logging to standard error.

    Other packages are never logged below `info`, because Pillow's debug messages contain image metadata.

    Args:
        options: format and level.
    """
    level = logging.getLevelNamesMapping()[options.log_level.upper()]
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_request_id)
    if options.log_format == "json":
        handler.setFormatter(_JSON)
    else:
        handler.addFilter(_add_line)
        handler.setFormatter(_HUMAN)
    logging.basicConfig(level=max(level, logging.INFO), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    # Python remembers every distinct warning text, so texts that depend on the image would leak memory.
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger(_PACKAGE).setLevel(level)


def _add_request_id(record: logging.LogRecord) -> bool:
    """Add the ID of the current request, if any."""
    current = request_id.get()
    if current:
        record.request_id = current
    return True


def _add_line(record: logging.LogRecord) -> bool:
    """Add the message as a single line followed by the request ID, so that clients cannot inject log lines."""
    current = getattr(record, "request_id", "")
    record.line = " ".join(record.getMessage().splitlines()) + f" [{current}]" * bool(current)
    return True
