"""Where a device takes new versions from: a folder, a web server, or a bucket. One file per kind."""

import re
from pathlib import Path

from unfreeze.device.sources.folder import FolderSource
from unfreeze.device.sources.source import Source, Transfer

__all__ = ["Source", "Transfer", "open_source"]


def open_source(text: str) -> Source:
    """Choose the kind of a source.

    Args:
        text: path of a model's folder, or its URL: `https://...`, or another protocol that fsspec knows.

    Raises:
        SourceError: a package is missing, or the protocol is not known.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text)
    if scheme is None:
        return FolderSource(Path(text))
    if scheme[1].lower() in ("http", "https"):
        from unfreeze.device.sources.web import WebSource

        return WebSource(text)
    from unfreeze.device.sources.fsspec_urls import FsspecSource

    return FsspecSource(text)
