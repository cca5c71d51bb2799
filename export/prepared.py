"""Pictures prepared once, for every graph that is held against them."""

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from contract.arrays import Int64, UInt8
from contract.errors import ProofError
from contract.preprocess import PreprocessSpec
from contract.reporting import Reporter
from tune.dataset import Picture, Skipped
from tune.views import Views, load_views


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Labelled pictures as a graph takes them.

    Args:
        pixels: uint8 [N, H, W, 3], in an unnamed file.
        labels: int64 [N].
    """

    pixels: UInt8[np.ndarray, "n h w 3"]
    labels: Int64[np.ndarray, " n"]


def prepare_all(pictures: Sequence[Picture], spec: PreprocessSpec, what: str, reporter: Reporter) -> Prepared:
    """Decode and prepare pictures, on all cores; those that do not decode are left out, and told.

    Args:
        pictures: whose files are there.
        spec: how they are prepared.
        what: for the progress bar.
        reporter: shows progress.

    Raises:
        ProofError: files are gone, or not one decodes.
    """
    missing = [picture.path for picture in pictures if not picture.path.is_file()]
    if missing:
        raise ProofError(
            f"{len(missing)} of {len(pictures)} pictures are gone, {missing[0]} for one: the export is made and proven "
            "with them; say where the data are now with --data"
        )
    shape = max(1, len(pictures)), *spec.shape
    with tempfile.TemporaryFile() as file:
        os.posix_fallocate(file.fileno(), 0, math.prod(shape))  # a full disk is an error now, and not a crash later
        pixels = np.memmap(file, np.uint8, "r+", shape=shape)
    skipped: list[Skipped] = []
    labels: list[int] = []
    advance = reporter.track(what, len(pictures))
    for picture, views in load_views(pictures, Views(spec=spec), skipped):
        pixels[len(labels)] = views[0]
        labels.append(picture.label)
        advance(1)
    for item in skipped:
        reporter.say(f"{item.path} is left out: {item.reason}")
    if not labels:
        raise ProofError("there is no picture to make and prove the model with; say where the data are with --data")
    return Prepared(pixels=pixels[: len(labels)], labels=np.array(labels))
