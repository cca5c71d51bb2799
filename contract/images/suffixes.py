"""The suffixes of image files."""

IMAGE_SUFFIXES = tuple(
    f".{suffix}"
    for suffix in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "avif", "heic"),
        *("heif", "hif", "jp2", "j2k", "j2c", "jpf", "jpx", "pbm", "pgm", "ppm", "pnm", "pfm"),
    )
)


def has_image_suffix(name: str) -> bool:
    """Return whether a file's name ends like that of an image; case is ignored."""
    return name.lower().endswith(IMAGE_SUFFIXES)
