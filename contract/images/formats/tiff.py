"""TIFF and BigTIFF; of several pages, the first."""

from unfreeze.contract.images.formats.image_format import ImageFormat, begins_with

# Byte order and version: TIFF, files whose writers swapped the version's bytes, and BigTIFF.
_MAGIC = (b"MM\0*", b"II*\0", b"MM*\0", b"II\0*", b"MM\0+", b"II+\0")

FORMAT = ImageFormat(name="TIFF", pillow_name="TIFF", recognizes=begins_with(*_MAGIC))
