"""What the store holds, for people."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfreeze.tune.store.columns import ACTIVATIONS, FEATURES, position_in
from unfreeze.tune.store.folder import SpaceFolder, list_spaces
from unfreeze.tune.store.segments import DamagedSegmentError, SegmentIndex, read_index

_DIGITS = 12
_HEAD, _ALL = "head", "all"  # as in --cut


@dataclass(frozen=True, kw_only=True)
class SpaceSummary:
    """What was computed in one way.

    Args:
        name: of its folder.
        backbone: of the network; "inspection" for what the inspection of data sets found.
        weights: first digits of the SHA-256 of its weights; empty for an inspection.
        image_size: height and width of a prepared image in pixels; None for an inspection.
        precision: numeric type; empty for an inspection.
        cuts: where activations or features are stored, from the input to the head.
        images: number of images; each view counts.
        size_bytes: of its files.
        last_used: in seconds since the epoch.
    """

    name: str
    backbone: str
    weights: str
    image_size: tuple[int, int] | None
    precision: str
    cuts: tuple[str, ...]
    images: int
    size_bytes: int
    last_used: float


def summarize(folder: Path) -> tuple[SpaceSummary, ...]:
    """Summarize the spaces of a store, the last used first.

    Args:
        folder: of the store, which may not exist.
    """
    return tuple(_summarize(space) for space in reversed(list_spaces(folder)))


def _summarize(space: SpaceFolder) -> SpaceSummary:
    described, indices = space.description(), list(_indices(space))
    crop = described.get("preprocess", {}).get("crop")
    columns = {column for index in indices for column in index.columns}
    return SpaceSummary(
        name=space.path.name,
        backbone=str(described.get("backbone", described.get("kind", "unknown"))),
        weights=str(described.get("weights", ""))[:_DIGITS],
        image_size=(crop[0], crop[1]) if crop else None,
        precision=str(described.get("precision", "")),
        cuts=tuple(_cuts(columns, described)),
        images=len({key for index in indices for key in index.keys}),
        size_bytes=space.size_bytes,
        last_used=space.last_used,
    )


def _indices(space: SpaceFolder) -> Iterator[SegmentIndex]:
    for segment in space.segments:
        if segment.complete:
            with suppress(OSError, DamagedSegmentError):
                yield read_index(segment.path)


def _cuts(columns: set[str], described: dict[str, Any]) -> Iterator[str]:
    """Yield the names of the cuts whose activations are stored, and "head" if features are."""
    blocks = described.get("blocks", [])
    for position in sorted({position_in(column) or 0 for column in columns if column.startswith(ACTIVATIONS)}):
        yield _ALL if position == 0 else blocks[position] if position < len(blocks) else f"block {position}"
    if FEATURES in columns:
        yield _HEAD
