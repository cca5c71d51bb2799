"""Frames of a camera, with OpenCV, which is an extra."""

import time
from collections.abc import Iterator
from types import ModuleType

import numpy as np
from PIL import Image

from unfreeze.contract.arrays import UInt8
from unfreeze.contract.errors import UnfreezeError
from unfreeze.contract.images.preprocess import PreprocessSpec, resize_and_crop
from unfreeze.device.answers import Pixels


def frames(source: str, every_s: float) -> Iterator[tuple[str, Pixels]]:
    """Read a camera's frames.

    Args:
        source: number of a camera, or a path or URL of a video that OpenCV opens.
        every_s: seconds between two frames; 0 for every frame.

    Yields:
        Name of the frame, and what prepares it.

    Raises:
        UnfreezeError: OpenCV is not installed, or the camera does not open or gives no more frames.
    """
    capture = _library().VideoCapture(int(source) if source.isdecimal() else source)
    try:
        if not capture.isOpened():
            raise UnfreezeError(f"camera {source} cannot be opened")
        number, due = 0, 0.0
        while capture.grab():  # also between two frames that are wanted: the camera's buffer holds old ones
            number += 1
            if time.monotonic() < due:
                continue
            due = time.monotonic() + every_s
            there, pixels = capture.retrieve()
            if there:
                yield f"camera {source} frame {number}", _frame_pixels(pixels)
        raise UnfreezeError(f"camera {source} gives no more frames; it gave {number:,}")
    finally:
        capture.release()


def _frame_pixels(bgr: np.ndarray) -> Pixels:
    def prepare(spec: PreprocessSpec) -> UInt8[np.ndarray, "h w 3"]:
        return np.asarray(resize_and_crop(Image.fromarray(np.ascontiguousarray(bgr[..., ::-1])), spec))

    return prepare


def _library() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise UnfreezeError(
            f"--camera needs OpenCV ({error}): pip install opencv-python-headless, or 'unfreeze[camera]'"
        ) from error
    module: ModuleType = cv2
    return module
