"""Images prepared once for all graphs that are evaluated on them."""

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unfreeze.contract.arrays import Int64, UInt8
from unfreeze.contract.errors import ProofError
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.contract.reporting import Reporter
from unfreeze.tune.data.dataset import LabeledImage, Skipped
from unfreeze.tune.data.views import Views, load_views


@dataclass(frozen=True, kw_only=True)
class PreparedImages:
    """Labeled images in the form of a graph's input.

    Args:
        pixels: uint8 [N, H, W, 3], memory-mapped from an unnamed file.
        labels: int64 [N].
    """

    pixels: UInt8[np.ndarray, "n h w 3"]
    labels: Int64[np.ndarray, " n"]


def prepare_images(
    images: Sequence[LabeledImage], spec: PreprocessSpec, what: str, reporter: Reporter
) -> PreparedImages:
    """Decode and prepare images on all cores; those that do not decode are reported and left out.

    Args:
        images: the files and their labels.
        spec: how images are prepared.
        what: label of the progress bar.
        reporter: shows progress.

    Raises:
        ProofError: files are missing, or no image decodes.
    """
    missing = [image.path for image in images if not image.path.is_file()]
    if missing:
        raise ProofError(
            f"{len(missing)} of {len(images)} images are missing, for example {missing[0]}; the export needs them to "
            "check the model. If the data has moved, give the new folder as --data"
        )
    shape = max(1, len(images)), *spec.shape
    with tempfile.TemporaryFile() as file:
        os.posix_fallocate(file.fileno(), 0, math.prod(shape))  # a full disk is an error here, not a bus error later
        pixels = np.memmap(file, np.uint8, "r+", shape=shape)
    skipped: list[Skipped] = []
    labels: list[int] = []
    advance = reporter.track(what, len(images))
    for image, views in load_views(images, Views(spec=spec), skipped):
        pixels[len(labels)] = views[0]
        labels.append(image.label)
        advance(1)
    for item in skipped:
        reporter.info(f"skipped {item.path}: {item.reason}")
    if not labels:
        raise ProofError("there is no image to check the model with; give the folder of the data as --data")
    return PreparedImages(pixels=pixels[: len(labels)], labels=np.array(labels))
