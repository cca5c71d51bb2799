"""Read the images that a client sends: bytes, files or a folder, read lazily in batches."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from unfreeze.contract.folders import LeftOut, list_files

ImageSource: TypeAlias = bytes | str | os.PathLike[str]
ImageEntry: TypeAlias = ImageSource | LeftOut
MAX_IMAGES_PER_REQUEST = 32
_MAX_BYTES_PER_REQUEST = 32 * 2**20


@dataclass(frozen=True, kw_only=True)
class InputImage:
    """An encoded image, or the reason why it cannot be read.

    Args:
        name: path of the file; "image 3" for the third of encoded images.
        is_file: whether `name` is a path.
        data: the encoded image.
        error: why the image cannot be read; None if it was read.
    """

    name: str
    is_file: bool
    data: bytes = b""
    error: str | None = None


def expand_images(images: ImageSource | Iterable[ImageEntry]) -> Iterable[ImageEntry]:
    """Turn a folder into its files, and a single image into a list of one.

    What a folder holds and cannot be read, such as dangling links and pipes, is listed with the reason.
    """
    if isinstance(images, str | os.PathLike) and Path(images).is_dir():
        return list_files(Path(images)).entries
    return [images] if isinstance(images, bytes | str | os.PathLike) else images


def read_batches(images: Iterable[ImageEntry], max_message_bytes: int) -> Iterator[list[InputImage]]:
    """Read images lazily and group them into requests of at most 32 images and 32 MiB.

    Args:
        images: encoded images (bytes), paths of files, or entries of a folder that cannot be read.
        max_message_bytes: maximum size of a request; larger images are not read.

    Yields:
        The images of one request; those that cannot be read have an `error`.
    """
    batch: list[InputImage] = []
    size, max_size = 0, min(_MAX_BYTES_PER_REQUEST, max_message_bytes // 2)
    for number, source in enumerate(images, start=1):
        image = _read(number, source, max_message_bytes)
        if batch and (len(batch) == MAX_IMAGES_PER_REQUEST or size + len(image.data) > max_size):
            yield batch
            batch, size = [], 0
        batch.append(image)
        size += len(image.data)
    if batch:
        yield batch


def _read(number: int, source: ImageEntry, max_bytes: int) -> InputImage:
    if isinstance(source, LeftOut):
        return InputImage(name=str(source.path), is_file=True, error=source.message)
    is_file = not isinstance(source, bytes)
    name = str(source) if is_file else f"image {number}"
    try:
        size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
        if size > max_bytes:
            limit = f"{max_bytes / 2**20:.0f} MiB"
            error = f"{name}: the image has {size / 2**20:,.1f} MiB; the limit for a request is {limit}"
            return InputImage(name=name, is_file=is_file, error=error)
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        return InputImage(name=name, is_file=is_file, error=f"cannot read {name}: {error.strerror}")
    return InputImage(name=name, is_file=is_file, data=data)
