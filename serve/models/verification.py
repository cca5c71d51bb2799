"""Try a model on this device: is the file whole, and does it answer here what it answered where it was made?"""

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
from unfreeze.serve.runtimes import Runtime, RuntimeName, open_runtime

_LEAST = 1e-30  # float32 ends at 1e-38


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was found of a model that is what was exported.

    Args:
        sha256: of the file.
        golden: how many golden images were classified.
        largest_difference: between the logarithms of any probability and of the one that was to be, in nats: where a
            model is nearly sure, its probabilities tell next to nothing.
        tolerance: above this the model would have been refused.
    """

    sha256: str
    golden: int
    largest_difference: float
    tolerance: float


def verify(path: str | os.PathLike[str], *, runtime: RuntimeName = "cpu") -> Verified:
    """Hold a model against its seal and its golden vectors: decoding, resizing and the graph, with no data at hand.

    What was published beside it is held against its digests too, where it lies there.

    Args:
        path: of a `model.onnx` that `unfreeze export` wrote.
        runtime: what executes it.

    Returns:
        What was found.

    Raises:
        ModelError: the file was changed, or answers otherwise here; the message says which image and by how much.
    """
    with open_runtime(path, runtime) as opened:
        check_beside(Path(path), opened.manifest.labels)
        return verify_answers(opened, str(path))


def verify_answers(runtime: Runtime, name: str) -> Verified:
    """Hold a loaded model, whose seal is whole, against its golden vectors.

    Args:
        runtime: the loaded model.
        name: what messages call it.

    Raises:
        ModelError: it answers otherwise here.
    """
    manifest, largest = runtime.manifest, 0.0
    if not manifest.golden:
        raise ModelError(f"{name} carries no golden images to try it on; export it again")
    for number, golden in enumerate(manifest.golden, start=1):
        where = f"{name}: golden image {number} of {len(manifest.golden)}"
        (answer,) = runtime.run(_prepared(golden, manifest.preprocess, where)[None])
        difference = float(np.abs(_logarithms(answer) - _logarithms(np.array(golden.probabilities))).max())
        if not difference <= manifest.golden_tolerance:
            raise ModelError(
                f"{where}: the logarithm of a probability differs by {difference:.1e}, more than "
                f"{manifest.golden_tolerance:g}; this device's runtime does not compute what was exported, "
                "or the model was changed"
            )
        label = manifest.labels[golden.probabilities.index(max(golden.probabilities))]
        if label != golden.label:
            raise ModelError(f"{where} is called {label!r}, and was {golden.label!r}: the labels were changed")
        largest = max(largest, difference)
    return Verified(
        sha256=manifest.sha256,
        golden=len(manifest.golden),
        largest_difference=largest,
        tolerance=manifest.golden_tolerance,
    )


def _logarithms(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities.astype(np.float64), _LEAST))


def _prepared(golden: Golden, spec: PreprocessSpec, where: str) -> np.ndarray:
    try:
        pixels = prepare(base64.b64decode(golden.image, validate=True), spec)
    except (ValueError, ImageError) as error:
        raise ModelError(f"{where} cannot be used: {error}") from error
    if golden.pixels_sha256 and hashlib.sha256(pixels.tobytes()).hexdigest() != golden.pixels_sha256:
        raise ModelError(
            f"{where} is prepared into other pixels: this device's Pillow ({PIL.__version__}) resizes in another way, "
            "or the model's preparation was changed"
        )
    return pixels
