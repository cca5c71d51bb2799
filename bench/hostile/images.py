"""Valid images of every supported format and kind, small enough for every byte to matter."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

_SIZE = (48, 36)
_ORIENTATION = 0x0112
COLORS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 40)}


def draw(color: tuple[int, int, int], seed: int = 0) -> Image.Image:
    """Draw noise around a color."""
    noise = np.random.default_rng(seed).normal(0, 40, (_SIZE[1], _SIZE[0], 3))
    return Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Encode an image."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def seed_images() -> dict[str, bytes]:
    """Draw one of each kind: color, gray, palette, 16 bits, EXIF orientation, animation, every compression."""
    return _jpegs() | _pngs() | _webps() | _gifs() | _bmps() | _tiffs()


def _frames() -> list[Image.Image]:
    return [draw(color, seed) for seed, color in enumerate(COLORS.values())]


def _jpegs() -> dict[str, bytes]:
    red = draw(COLORS["red"])
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    huge = bytearray(encode(red, "JPEG"))
    frame = huge.index(b"\xff\xc0")
    huge[frame + 5 : frame + 9] = struct.pack(">HH", 7_900, 8_000)
    return {
        "JPEG": encode(red, "JPEG"),
        "JPEG, progressive": encode(red, "JPEG", progressive=True),
        "JPEG, gray": encode(red.convert("L"), "JPEG"),
        "JPEG, CMYK": encode(red.convert("CMYK"), "JPEG"),
        "JPEG, EXIF orientation": encode(red, "JPEG", exif=exif, comment="red"),
        "JPEG, profile": encode(red, "JPEG", icc_profile=bytes(3000), subsampling=0),
        "JPEG, restarts": encode(red, "JPEG", restart_marker_blocks=2),
        "JPEG, several": encode(red, "MPO", save_all=True, append_images=_frames()),
        "JPEG, huge": bytes(huge),
    }


def _pngs() -> dict[str, bytes]:
    green = draw(COLORS["green"])
    deep = Image.fromarray(np.asarray(green.convert("L")).astype(np.uint16) * 257)
    huge = bytearray(encode(green, "PNG"))
    huge[16:24] = struct.pack(">II", 7_900, 8_000)
    huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
    return {
        "PNG": encode(green, "PNG"),
        "PNG, alpha": encode(green.convert("RGBA"), "PNG"),
        "PNG, palette": encode(green.quantize(16), "PNG", transparency=3),
        "PNG, 16 bits": encode(deep, "PNG"),
        "PNG, 1 bit": encode(green.convert("1"), "PNG"),
        "PNG, gray alpha": encode(green.convert("LA"), "PNG"),
        "PNG, animated": encode(green, "PNG", save_all=True, append_images=_frames()),
        "PNG, huge": bytes(huge),
    }


def _webps() -> dict[str, bytes]:
    blue = draw(COLORS["blue"])
    return {
        "WebP": encode(blue, "WEBP"),
        "WebP, lossless": encode(blue, "WEBP", lossless=True),
        "WebP, alpha": encode(blue.convert("RGBA"), "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0", xmp=b"<x/>"),
        "WebP, animated": encode(blue, "WEBP", save_all=True, append_images=_frames()),
    }


def _gifs() -> dict[str, bytes]:
    red = draw(COLORS["red"])
    return {
        "GIF": encode(red, "GIF", comment="red"),
        "GIF, animated": encode(red, "GIF", save_all=True, append_images=_frames(), loop=0, transparency=1),
        "GIF, interlaced": encode(red.convert("L"), "GIF", interlace=True),
    }


def _bmps() -> dict[str, bytes]:
    green = draw(COLORS["green"])
    packed = bytearray(encode(green.quantize(16), "BMP"))
    packed[30:34] = struct.pack("<I", 1)  # RLE8; each row is one run
    start = struct.unpack_from("<I", packed, 10)[0]
    runs = b"".join(bytes([_SIZE[0], row % 16, 0, 0]) for row in range(_SIZE[1]))
    return {
        "BMP": encode(green, "BMP"),
        "BMP, palette": encode(green.quantize(16), "BMP"),
        "BMP, 1 bit": encode(green.convert("1"), "BMP"),
        "BMP, alpha": encode(green.convert("RGBA"), "BMP"),
        "BMP, runs": bytes(packed[:start]) + runs + b"\0\x01",
    }


def _tiffs() -> dict[str, bytes]:
    blue = draw(COLORS["blue"])
    ways = ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "zstd")
    colored = {f"TIFF, {way}": encode(blue, "TIFF", compression=way) for way in ways}
    deep = Image.fromarray(np.asarray(blue.convert("L")).astype(np.uint16) * 257)
    return colored | {
        "TIFF, fax": encode(blue.convert("1"), "TIFF", compression="group4"),
        "TIFF, CMYK": encode(blue.convert("CMYK"), "TIFF"),
        "TIFF, 16 bits": encode(deep, "TIFF"),
        "TIFF, palette": encode(blue.quantize(16), "TIFF"),
        "TIFF, pages": encode(blue, "TIFF", save_all=True, append_images=_frames()),
    }
