"""Blocks: the parts of a job that are computed, stored and, after an interruption, skipped as a whole."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from unfreeze.batch.sources.entry import Entry

_MOST_IMAGES, _BLOCKS = 1024, 256


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some images, in order.

    Args:
        number: of the block, from 0.
        entries: what it consists of.
    """

    number: int
    entries: tuple[Entry, ...]

    @property
    def images(self) -> int:
        """Number of images, as far as it is known."""
        return sum(entry.count for entry in self.entries)

    def to_json(self) -> bytes:
        """Write the block in one line."""
        return json.dumps([self.number, [entry.to_json() for entry in self.entries]]).encode()

    @classmethod
    def from_json(cls, line: bytes) -> "Block":
        """Read what `to_json` wrote."""
        number, entries = json.loads(line)
        return cls(number=number, entries=tuple(Entry.from_json(entry) for entry in entries))


def images_per_block(images: int, batch: int) -> int:
    """Choose the size of blocks: about 256 blocks, of whole batches, and at most 1,024 images.

    Small blocks keep all workers busy to the end; large ones cost fewer files.

    Args:
        images: number of images.
        batch: images in a batch.
    """
    wanted = min(_MOST_IMAGES, -(-images // _BLOCKS))
    return max(1, -(-wanted // batch)) * batch


def split(entries: Iterable[Entry], size: int) -> Iterator[Block]:
    """Divide entries into blocks, always in the same way.

    A block ends when it has `size` images. An entry is never divided; one whose number of images is not known is a
    block of its own.

    Args:
        entries: of a listing.
        size: images of a block.
    """
    number, own, images = 0, list[Entry](), 0
    for entry in entries:
        if own and (images >= size or not entry.count or not own[-1].count):
            yield Block(number=number, entries=tuple(own))
            number, own, images = number + 1, [], 0
        _append(own, entry)
        images += entry.count
    if own:
        yield Block(number=number, entries=tuple(own))


def _append(entries: list[Entry], entry: Entry) -> None:
    """Append an entry, or extend the last one if it goes on there in the same file."""
    last = entries[-1] if entries else None
    if last and last.stop and (last.kind, last.path, last.stop) == (entry.kind, entry.path, entry.start):
        entries[-1] = replace(last, stop=entry.stop, count=last.count + entry.count)
    else:
        entries.append(entry)
