"""Boxes, which AVIF, HEIC and JPEG 2000 files consist of: a length of 4 or 8 bytes, a type of 4 bytes, the content."""

from collections.abc import Iterator

_MOST_BOXES = 10_000  # at the top of a file; writers make about ten


def boxes(data: bytes, at: int = 0, stop: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Iterate over consecutive boxes.

    Args:
        data: the file.
        at: where the first box begins.
        stop: where the last one ends; None is the end of the file.

    Yields:
        Each box's type, and where its content begins and ends; the end may lie past the end of a truncated file.
    """
    stop = len(data) if stop is None else min(stop, len(data))
    for _ in range(_MOST_BOXES):
        if at + 8 > stop:
            return
        size, kind, begin = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], at + 8
        if size == 1:  # the length follows, in 8 bytes
            size, begin = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        end = at + size if size else stop
        if end < begin:
            return
        yield kind, begin, end
        at = end


def brands(data: bytes) -> frozenset[bytes]:
    """Read which formats a file declares: the brands in its first box, if that is of type `ftyp`."""
    if data[4:8] != b"ftyp":
        return frozenset()
    content = data[8 : min(int.from_bytes(data[:4], "big"), 4096)]
    return frozenset({content[:4]} | {content[at : at + 4] for at in range(8, len(content), 4)})
