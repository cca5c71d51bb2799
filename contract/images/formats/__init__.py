"""The image formats that are read: one module and one line below for each.

A format defines by which first bytes it is recognized, which of Pillow's decoders reads it, and how its files are
screened before they are decoded.
"""

from unfreeze.contract.images.formats import avif, bmp, gif, heic, jpeg, jpeg2000, png, pnm, tiff, webp
from unfreeze.contract.images.formats.image_format import ImageFormat

FORMATS: list[ImageFormat] = [
    jpeg.FORMAT,
    png.FORMAT,
    webp.FORMAT,
    gif.FORMAT,
    bmp.FORMAT,
    tiff.FORMAT,
    avif.FORMAT,
    jpeg2000.FORMAT,
    pnm.FORMAT,
    heic.FORMAT,
]

__all__ = ["FORMATS", "ImageFormat"]
