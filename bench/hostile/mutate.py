"""Mutations of bytes."""

import random
import struct
import zlib
from collections.abc import Callable, Sequence

_PNG = b"\x89PNG\r\n\x1a\n"
_HEAD = 64  # headers, where changes matter most
_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF)
_MOST_BYTES = 2**20


def mutate(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Mutate bytes one to four times: bits, lengths, order, repetition, deletion, insertion.

    Args:
        data: the bytes to mutate.
        others: bytes that parts are spliced from.
        rng: random generator.

    Returns:
        At most 1 MiB.
    """
    for _ in range(rng.randint(1, 4)):
        change = rng.choice(_CHANGES)
        data = change(data, rng) if change is not _splice else _splice(data, rng.choice(others), rng)
    if data.startswith(_PNG) and rng.random() < 0.7:  # noqa: PLR2004 - else no mutation gets past the checksums
        data = _with_checksums(data)
    return data[:_MOST_BYTES]


def _place(data: bytes, rng: random.Random) -> int:
    """Choose a position, half of the time near the beginning."""
    return rng.randrange(min(len(data), _HEAD) if rng.random() < 0.5 else len(data)) if data else 0  # noqa: PLR2004


def _part(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = _place(data, rng)
    return start, min(len(data), start + rng.choice((1, 4, 12, 64, 600, 5000)))


def _flip_bits(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 16) if data else 0):
        changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)]


def _splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def _set_number(data: bytes, rng: random.Random) -> bytes:
    """Overwrite a length, a size or an offset: 1, 2 or 4 bytes, in either byte order."""
    size, order = rng.choice((1, 2, 4)), rng.choice(("little", "big"))
    at, near = _place(data, rng), len(data) + rng.randint(-2, 2)
    number = rng.choice((*_NUMBERS, max(0, near))) % 256**size
    return data[:at] + number.to_bytes(size, order) + data[at + size :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start, stop = _part(data, rng)
    return data[:start] + data[start:stop] * rng.choice((2, 3, 10, 100)) + data[stop:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 30, 300))) + data[at:]


def _delete(data: bytes, rng: random.Random) -> bytes:
    start, stop = _part(data, rng)
    return data[:start] + data[stop:]


def _move(data: bytes, rng: random.Random) -> bytes:
    start, stop = _part(data, rng)
    rest = data[:start] + data[stop:]
    at = _place(rest, rng)
    return rest[:at] + data[start:stop] + rest[at:]


def _with_checksums(data: bytes) -> bytes:
    """Recompute the checksum of every chunk of a PNG, as far as chunks can be parsed."""
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
