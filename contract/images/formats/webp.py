"""WebP; of an animation, the first frame."""

from unfreeze.contract.images.formats.image_format import ImageFormat


def _recognizes(data: bytes) -> bool:
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


FORMAT = ImageFormat(name="WebP", pillow_name="WEBP", recognizes=_recognizes)
