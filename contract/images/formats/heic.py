"""HEIC and HEIF, as phones write them; the decoder is pillow-heif, an extra."""

from unfreeze.contract.errors import UnsupportedImageError
from unfreeze.contract.images.formats.boxes import brands
from unfreeze.contract.images.formats.image_format import ImageFormat

_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
_AVIF = frozenset({b"avif", b"avis"})


def _recognizes(data: bytes) -> bool:
    found = brands(data)
    return bool(_BRANDS & found) and not _AVIF & found


def _load() -> None:
    try:
        import pillow_heif
    except ImportError:
        raise UnsupportedImageError(
            "the image is a HEIC file, and its decoder is not installed: pip install 'unfreeze[heic]', or save the "
            "image as JPEG"
        ) from None
    pillow_heif.options.DECODE_THREADS = 1  # images are decoded on all cores already
    pillow_heif.register_heif_opener(thumbnails=False)


FORMAT = ImageFormat(name="HEIC", pillow_name="HEIF", recognizes=_recognizes, load=_load)
