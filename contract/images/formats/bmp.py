"""BMP."""

from unfreeze.contract.images.formats.image_format import ImageFormat, begins_with

FORMAT = ImageFormat(name="BMP", pillow_name="BMP", recognizes=begins_with(b"BM"))
