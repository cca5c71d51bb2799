"""Images prepared once, for every graph that is held against them."""

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
class Prepared:
    """Labeled images as a graph takes them.

    Args:
        pixels: uint8 [N, H, W, 3], in an unnamed file.
        labels: int64 [N].
    """

    pixels: UInt8[np.ndarray, "n h w 3"]
    labels: Int64[np.ndarray, " n"]


def prepare_all(images: Sequence[LabeledImage], spec: PreprocessSpec, what: str, reporter: Reporter) -> Prepared:
    """Decode and prepare images, on all cores; those that do not decode are left out, and told.

    Args:
        images: whose files are there.
        spec: how they are prepared.
        what: for the progress bar.
        reporter: shows progress.

    Raises:
        ProofError: files are gone, or not one decodes.
    """
    missing = [image.path for image in images if not image.path.is_file()]
    if missing:
        raise ProofError(
            f"{len(missing)} of {len(images)} images are gone, {missing[0]} for one: the export is made and proven "
            "with them; say where the data are now with --data"
        )
    shape = max(1, len(images)), *spec.shape
    with tempfile.TemporaryFile() as file:
        os.posix_fallocate(file.fileno(), 0, math.prod(shape))  # a full disk is an error now, and not a crash later
        pixels = np.memmap(file, np.uint8, "r+", shape=shape)
    skipped: list[Skipped] = []
    labels: list[int] = []
    advance = reporter.track(what, len(images))
    for image, views in load_views(images, Views(spec=spec), skipped):
        pixels[len(labels)] = views[0]
        labels.append(image.label)
        advance(1)
    for item in skipped:
        reporter.info(f"{item.path} is left out: {item.reason}")
    if not labels:
        raise ProofError("there is no image to make and prove the model with; say where the data are with --data")
    return Prepared(pixels=pixels[: len(labels)], labels=np.array(labels))
