"""Verify a model on this device: the file is intact and classifies its golden images as when it was exported."""

import base64
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL

from unfreeze.contract.errors import ImageError, ModelError
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare
from unfreeze.contract.model.manifest import Golden
from unfreeze.contract.model.repository import check_beside
from unfreeze.serve.runtimes.base import Runtime
from unfreeze.serve.runtimes.registry import RuntimeName, open_runtime

_MIN_PROBABILITY = 1e-30  # avoids log(0); the smallest normal float32 is about 1e-38


@dataclass(frozen=True, kw_only=True)
class VerificationResult:
    """The result of a successful verification.

    Args:
        sha256: digest of the file.
        golden: number of golden images that were classified.
        largest_difference: largest absolute difference between log-probabilities here and at export, in nats;
            log-probabilities also show differences in probabilities that are close to 0 or 1.
        tolerance: the largest difference that passes.
    """

    sha256: str
    golden: int
    largest_difference: float
    tolerance: float


def verify(path: str | os.PathLike[str], *, runtime: RuntimeName = "cpu") -> VerificationResult:
    """Verify a model's seal and its golden images: decoding, resizing and the graph, without any data set.

    Files that were published next to the model are checked against their digests.

    Args:
        path: a `model.onnx` written by `unfreeze export`.
        runtime: a registered runtime.

    Returns:
        The number of golden images and the largest difference.

    Raises:
        ModelError: the file was changed, or a golden image is classified differently; the message says which one and
            by how much.
    """
    with open_runtime(path, runtime) as opened:
        check_beside(Path(path), opened.manifest.labels)
        return verify_answers(opened, str(path))


def verify_answers(runtime: Runtime, name: str) -> VerificationResult:
    """Verify the golden images of a loaded model.

    Args:
        runtime: the loaded model.
        name: name of the model in messages.

    Raises:
        ModelError: the model has no golden images, or one is classified differently.
    """
    manifest, largest = runtime.manifest, 0.0
    if not manifest.golden:
        raise ModelError(f"{name} has no golden images; export it again")
    for number, golden in enumerate(manifest.golden, start=1):
        where = f"{name}: golden image {number} of {len(manifest.golden)}"
        (probabilities,) = runtime.run(_preprocess(golden, manifest.preprocess, where)[None])
        difference = float(np.abs(_log(probabilities) - _log(np.array(golden.probabilities))).max())
        if not difference <= manifest.golden_tolerance:
            raise ModelError(
                f"{where}: a log-probability differs by {difference:.1e} (tolerance {manifest.golden_tolerance:g}); "
                "the runtime computes other results than at export, or the model was changed"
            )
        label = manifest.labels[golden.probabilities.index(max(golden.probabilities))]
        if label != golden.label:
            raise ModelError(f"{where} is classified as {label!r}, expected {golden.label!r}: the labels were changed")
        largest = max(largest, difference)
    return VerificationResult(
        sha256=manifest.sha256,
        golden=len(manifest.golden),
        largest_difference=largest,
        tolerance=manifest.golden_tolerance,
    )


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities.astype(np.float64), _MIN_PROBABILITY))


def _preprocess(golden: Golden, spec: PreprocessSpec, where: str) -> np.ndarray:
    try:
        pixels = prepare(base64.b64decode(golden.image, validate=True), spec)
    except (ValueError, ImageError) as error:
        raise ModelError(f"{where} cannot be decoded: {error}") from error
    if golden.pixels_sha256 and hashlib.sha256(pixels.tobytes()).hexdigest() != golden.pixels_sha256:
        raise ModelError(
            f"{where} is preprocessed to different pixels than at export: Pillow {PIL.__version__} resizes "
            "differently, or the preprocessing was changed"
        )
    return pixels
