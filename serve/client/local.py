"""In-process inference from a model file, without a server; requires only numpy, Pillow and ONNX Runtime."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from unfreeze.contract.answers import Answer, probabilities_in, read_answer
from unfreeze.contract.arrays import Float32
from unfreeze.contract.closing import Closing
from unfreeze.contract.errors import ImageError, InvalidRequestError, ModelError
from unfreeze.contract.images.opening import MAX_PIXELS
from unfreeze.contract.images.preprocess import prepare
from unfreeze.contract.model.manifest import Manifest
from unfreeze.contract.prediction import Prediction, is_unsure
from unfreeze.serve.client.images import ImageSource
from unfreeze.serve.runtimes import RuntimeName, open_runtime
from unfreeze.serve.runtimes.base import FeatureRuntime


class LocalClassifier(Closing):
    """A model in this process; a context manager.

    Args:
        path: path of a `model.onnx` written by `unfreeze export`.
        device: "cpu", "openvino", "openvino-bf16", "auto" for the fastest of these, "cuda", or "tensorrt" for the
            TensorRT engine next to the model.
        max_pixels: maximum number of pixels of an image.

    Raises:
        ModelError: the file is not an exported model, or the device is not available.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, device: RuntimeName = "cpu", max_pixels: int = MAX_PIXELS
    ) -> None:
        self._runtime = open_runtime(path, device)
        self._max_pixels = max_pixels

    @property
    def manifest(self) -> Manifest:
        """The model's metadata."""
        return self._runtime.manifest

    def probabilities(self, images: Sequence[ImageSource]) -> Float32[np.ndarray, "n c"]:
        """Compute class probabilities.

        Args:
            images: encoded images (bytes) or paths of files.

        Returns:
            Probabilities of each image, in the order of `manifest.labels`; each row sums to 1.

        Raises:
            ImageError: an image cannot be read or decoded; the message names it.
            ModelError: the classifier is closed.
        """
        return probabilities_in(self._rows(images, self._runtime.run, self.manifest.answer_width), self.manifest)

    def answers(self, images: Sequence[ImageSource], *, top_k: int = 5) -> list[Answer]:
        """Classify images, and say of which the model is unsure and which are unlike its training images.

        Args:
            images: encoded images (bytes) or paths of files.
            top_k: number of labels to return for each image, at least 1.

        Raises:
            InvalidRequestError: `top_k` is less than 1.
            ImageError: an image cannot be read or decoded; the message names it.
            ModelError: the classifier is closed.
        """
        if top_k < 1:
            raise InvalidRequestError(f"top_k must be at least 1, got {top_k}")
        rows = self._rows(images, self._runtime.run, self.manifest.answer_width)
        return [read_answer(row, self.manifest, top_k) for row in rows]

    def features(self, images: Sequence[ImageSource]) -> Float32[np.ndarray, "n f"]:
        """Compute the pooled features that the head of the network classifies.

        Args:
            images: encoded images (bytes) or paths of files.

        Raises:
            ImageError: an image cannot be read or decoded; the message names it.
            ModelError: the model was exported without features, the device does not return them, or the classifier is
                closed.
        """
        if not self.manifest.features:
            raise ModelError("the model returns no features: export the run again, with --features")
        runtime = self._runtime
        if not isinstance(runtime, FeatureRuntime):
            raise ModelError("this device returns no features; use the device cpu or openvino")
        return self._rows(images, runtime.features, self.manifest.features)

    def _rows(
        self, images: Sequence[ImageSource], run: Callable[[np.ndarray], np.ndarray], width: int
    ) -> Float32[np.ndarray, "n a"]:
        if not images:
            return np.empty((0, width), np.float32)
        prepared = [self._prepare(number, image) for number, image in enumerate(images, start=1)]
        size = self.manifest.max_batch
        batches = (np.stack(prepared[start : start + size]) for start in range(0, len(prepared), size))
        return np.concatenate([run(batch) for batch in batches])

    def predict(self, images: Sequence[ImageSource], *, top_k: int = 5) -> list[tuple[Prediction, ...]]:
        """Classify images.

        Args:
            images: encoded images (bytes) or paths of files.
            top_k: number of labels to return for each image, at least 1.

        Returns:
            The labels of each image, ordered by score, the highest first.

        Raises:
            InvalidRequestError: `top_k` is less than 1.
            ImageError: an image cannot be read or decoded; the message names it.
            ModelError: the classifier is closed.
        """
        return [answer.predictions for answer in self.answers(images, top_k=top_k)]

    def is_unsure(self, predictions: Sequence[Prediction]) -> bool:
        """Check whether the top score of an image is below the model's confidence threshold.

        Args:
            predictions: predictions of one image, as returned by `predict`.

        Returns:
            False also if the model has no threshold: then `manifest.abstain_below` is None. `answers` also says of
            which images the model is unsure because they are unlike its training images.
        """
        return bool(is_unsure(predictions, self.manifest.abstain_below))

    def close(self) -> None:
        """Release the model; may be called repeatedly."""
        self._runtime.close()

    def _prepare(self, number: int, image: ImageSource) -> np.ndarray:
        name = f"image {number}" if isinstance(image, bytes) else str(image)
        try:
            data = image if isinstance(image, bytes) else Path(image).read_bytes()
            return prepare(data, self.manifest.preprocess, max_pixels=self._max_pixels)
        except ImageError as error:
            raise type(error)(f"{name}: {error}") from error
        except OSError as error:
            raise ImageError(f"cannot read {name}: {error.strerror}") from error
