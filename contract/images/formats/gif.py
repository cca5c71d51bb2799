"""GIF; of an animation, the first frame."""

from unfreeze.contract.images.formats.image_format import ImageFormat, begins_with

FORMAT = ImageFormat(name="GIF", pillow_name="GIF", recognizes=begins_with(b"GIF87a", b"GIF89a"))
