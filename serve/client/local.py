"""Predict in-process from one model file: what a device runs. Needs numpy, Pillow and ONNX Runtime alone."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unfreeze.contract.arrays import Float32
from unfreeze.contract.closing import Closing
from unfreeze.contract.errors import ImageError, InvalidRequestError
from unfreeze.contract.images.preprocess import MAX_PIXELS, prepare
from unfreeze.contract.model.manifest import Manifest
from unfreeze.contract.prediction import Prediction, is_unsure, top_predictions
from unfreeze.serve.runtimes import RuntimeName, open_runtime

Encoded = bytes | str | os.PathLike[str]


class LocalClassifier(Closing):
    """A model in this process; a context manager.

    Args:
        path: of a `model.onnx` that `unfreeze export` wrote.
        device: "cpu", "cuda", or "tensorrt" for the engine beside the model.
        max_pixels: larger images are refused.

    Raises:
        ModelError: the file is no model of ours, or the device cannot be had.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, device: RuntimeName = "cpu", max_pixels: int = MAX_PIXELS
    ) -> None:
        self._runtime = open_runtime(path, device)
        self._max_pixels = max_pixels

    @property
    def manifest(self) -> Manifest:
        """What the model says of itself."""
        return self._runtime.manifest

    def probabilities(self, images: Sequence[Encoded]) -> Float32[np.ndarray, "n c"]:
        """Classify images.

        Args:
            images: encoded ones (bytes), or files' paths.

        Returns:
            One probability per label, in the order of `manifest.labels`.

        Raises:
            ImageError: one of them cannot be used; the message says which and why.
        """
        if not images:
            return np.empty((0, len(self.manifest.labels)), np.float32)
        prepared = [self._prepare(number, image) for number, image in enumerate(images, start=1)]
        size = self.manifest.max_batch
        batches = (np.stack(prepared[start : start + size]) for start in range(0, len(prepared), size))
        return np.concatenate([self._runtime.run(batch) for batch in batches])

    def predict(self, images: Sequence[Encoded], *, top: int = 5) -> list[tuple[Prediction, ...]]:
        """Name the most probable labels of each image.

        Args:
            images: encoded ones (bytes), or files' paths.
            top: how many labels to name, at least 1.

        Returns:
            For each image its labels, the most probable first.

        Raises:
            InvalidRequestError: `top` is below 1.
            ImageError: one of them cannot be used; the message says which and why.
        """
        if top < 1:
            raise InvalidRequestError(f"top is at least 1, found {top}")
        labels = self.manifest.labels
        return [top_predictions(row, labels, top) for row in self.probabilities(images)]

    def is_unsure(self, predictions: Sequence[Prediction]) -> bool:
        """Tell whether an answer of `predict` is below the confidence that the model was tuned to answer at."""
        return is_unsure(predictions, self.manifest.abstain_below)

    def close(self) -> None:
        """Let go of the model."""
        self._runtime.close()

    def _prepare(self, number: int, image: Encoded) -> np.ndarray:
        name = f"image {number}" if isinstance(image, bytes) else str(image)
        try:
            data = image if isinstance(image, bytes) else Path(image).read_bytes()
            return prepare(data, self.manifest.preprocess, max_pixels=self._max_pixels)
        except ImageError as error:
            raise type(error)(f"{name}: {error}") from error
        except OSError as error:
            raise ImageError(f"{name} cannot be read: {error.strerror}") from error
