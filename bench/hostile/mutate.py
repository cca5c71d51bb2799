"""Change bytes so that they are nearly what they were."""

import random
import struct
import zlib
from collections.abc import Callable, Sequence

_PNG = b"\x89PNG\r\n\x1a\n"
_HEAD = 64  # where headers are, and changes matter most
_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF)
_MOST_BYTES = 2**20


def mutate(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Change bytes one to four times: bits, lengths, order, repetition, what is missing and what is too much.

    Args:
        data: what is changed.
        others: what parts are taken from.
        chance: decides.

    Returns:
        At most a MiB.
    """
    for _ in range(chance.randint(1, 4)):
        change = chance.choice(_CHANGES)
        data = change(data, chance) if change is not _splice else _splice(data, chance.choice(others), chance)
    if data.startswith(_PNG) and chance.random() < 0.7:  # noqa: PLR2004 - else no change gets past the checksums
        data = _with_checksums(data)
    return data[:_MOST_BYTES]


def _place(data: bytes, chance: random.Random) -> int:
    """Choose a place, one in two times near the beginning."""
    return chance.randrange(min(len(data), _HEAD) if chance.random() < 0.5 else len(data)) if data else 0  # noqa: PLR2004


def _part(data: bytes, chance: random.Random) -> tuple[int, int]:
    start = _place(data, chance)
    return start, min(len(data), start + chance.choice((1, 4, 12, 64, 600, 5000)))


def _flip_bits(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 16) if data else 0):
        changed[_place(data, chance)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, chance: random.Random) -> bytes:
    return data[: _place(data, chance)]


def _splice(data: bytes, other: bytes, chance: random.Random) -> bytes:
    return data[: _place(data, chance)] + other[_place(other, chance) :]


def _set_number(data: bytes, chance: random.Random) -> bytes:
    """Write a length, a size or an offset: 1, 2 or 4 bytes, in either order."""
    size, order = chance.choice((1, 2, 4)), chance.choice(("little", "big"))
    at, near = _place(data, chance), len(data) + chance.randint(-2, 2)
    number = chance.choice((*_NUMBERS, max(0, near))) % 256**size
    return data[:at] + number.to_bytes(size, order) + data[at + size :]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    start, stop = _part(data, chance)
    return data[:start] + data[start:stop] * chance.choice((2, 3, 10, 100)) + data[stop:]


def _insert(data: bytes, chance: random.Random) -> bytes:
    at = _place(data, chance)
    return data[:at] + chance.randbytes(chance.choice((1, 2, 4, 30, 300))) + data[at:]


def _delete(data: bytes, chance: random.Random) -> bytes:
    start, stop = _part(data, chance)
    return data[:start] + data[stop:]


def _move(data: bytes, chance: random.Random) -> bytes:
    start, stop = _part(data, chance)
    rest = data[:start] + data[stop:]
    at = _place(rest, chance)
    return rest[:at] + data[start:stop] + rest[at:]


def _with_checksums(data: bytes) -> bytes:
    """Give every chunk of a PNG the checksum of what it now holds, as far as chunks can be told."""
    parts, at = [data[: len(_PNG)]], len(_PNG)
    while at + 12 <= len(data):
        end = at + 8 + struct.unpack_from(">I", data, at)[0]
        if end + 4 > len(data):
            break
        parts += [data[at:end], struct.pack(">I", zlib.crc32(data[at + 4 : end]))]
        at = end + 4
    return b"".join((*parts, data[at:]))


_CHANGES: tuple[Callable[..., bytes], ...] = (
    _flip_bits,
    _flip_bits,
    _set_number,
    _set_number,
    _truncate,
    _splice,
    _repeat,
    _insert,
    _delete,
    _move,
)
