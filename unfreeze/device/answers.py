"""What a device answers about an image: one JSON document."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.contract.answers import Answer, read_answer
from unfreeze.contract.arrays import UInt8
from unfreeze.contract.errors import ImageError, ModelError
from unfreeze.contract.folders import file_problem
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare
from unfreeze.device.opening import LoadedVersion

Pixels = Callable[[PreprocessSpec], UInt8[np.ndarray, "h w 3"]]


def answer(name: str, pixels: Pixels, loaded: LoadedVersion, top_k: int) -> dict[str, Any]:
    """Classify an image.

    Args:
        name: of the image.
        pixels: reads and prepares it.
        loaded: the model.
        top_k: number of labels in `top_k`.

    Returns:
        image, label, score, top_k (labels with scores), unsure (null if the model has no threshold),
        out_of_distribution and ood_score (null if the model has no such score), latency_ms (reading, decoding and the
        network), model, version and error; what is unknown is null.
    """
    started = time.perf_counter()
    found, error = Answer(predictions=()), None
    manifest = loaded.model.manifest
    try:
        (row,) = loaded.model.run(pixels(manifest.preprocess)[None])
        found = read_answer(row, manifest, top_k)
    except (ImageError, ModelError) as failure:
        error = str(failure)
    top = found.predictions
    return {
        "image": name,
        "label": top[0].label if top else None,
        "score": top[0].score if top else None,
        "top_k": [{"label": one.label, "score": one.score} for one in top],
        "unsure": found.unsure,
        "out_of_distribution": found.out_of_distribution,
        "ood_score": found.ood_score,
        "latency_ms": round(1000 * (time.perf_counter() - started), 2),
        "model": loaded.version.model,
        "version": loaded.version.number,
        "error": error,
    }


def file_pixels(path: Path) -> Pixels:
    """Return what reads and prepares an image file.

    Args:
        path: of the file.
    """

    def read(spec: PreprocessSpec) -> UInt8[np.ndarray, "h w 3"]:
        if problem := file_problem(path):  # reading a pipe would wait for ever
            raise ImageError(f"{path}: {problem}")
        try:
            return prepare(path.read_bytes(), spec)
        except ImageError as error:
            raise type(error)(f"{path}: {error}") from error
        except OSError as error:
            raise ImageError(f"cannot read {path}: {error.strerror}") from error

    return read
