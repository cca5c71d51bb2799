"""Golden images: whether a loaded model classifies them as when it was exported."""

import base64
import hashlib
from dataclasses import dataclass

import numpy as np
import PIL

from unfreeze.contract.answers import probabilities_in
from unfreeze.contract.errors import ImageError, ModelError
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare
from unfreeze.contract.model.manifest import Golden
from unfreeze.serve.runtimes.base import OwnTolerance, Runtime

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


def verify_answers(runtime: Runtime, name: str) -> VerificationResult:
    """Verify the golden images of a loaded model.

    A runtime that computes in a lower precision than the model's has a tolerance of its own, which applies if it is
    larger. Its most probable label must be that of the export.

    Args:
        runtime: the loaded model.
        name: name of the model in messages.

    Raises:
        ModelError: the model has no golden images, or one is classified differently.
    """
    manifest, largest = runtime.manifest, 0.0
    if not manifest.golden:
        raise ModelError(f"{name} has no golden images; export it again")
    own = runtime.golden_tolerance if isinstance(runtime, OwnTolerance) else 0.0
    tolerance = max(manifest.golden_tolerance, own)
    for number, golden in enumerate(manifest.golden, start=1):
        where = f"{name}: golden image {number} of {len(manifest.golden)}"
        label = manifest.labels[golden.probabilities.index(max(golden.probabilities))]
        if label != golden.label:
            raise ModelError(f"{where} is classified as {label!r}, expected {golden.label!r}: the labels were changed")
        rows = runtime.run(_preprocess(golden, manifest.preprocess, where)[None])
        (probabilities,) = probabilities_in(rows, manifest)
        largest = max(largest, _difference(probabilities, golden, tolerance, where))
        found = manifest.labels[int(probabilities.argmax())]
        if own and found != golden.label:
            raise ModelError(f"{where} is classified as {found!r}, expected {golden.label!r}: the precision is too low")
    return VerificationResult(
        sha256=manifest.sha256, golden=len(manifest.golden), largest_difference=largest, tolerance=tolerance
    )


def _difference(probabilities: np.ndarray, golden: Golden, tolerance: float, where: str) -> float:
    """Return the largest difference of a log-probability of a golden image, if it is accepted."""
    difference = float(np.abs(_log(probabilities) - _log(np.array(golden.probabilities))).max())
    if not difference <= tolerance:
        raise ModelError(
            f"{where}: a log-probability differs by {difference:.1e} (tolerance {tolerance:g}); "
            "the runtime computes other results than at export, or the model was changed"
        )
    return difference


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
