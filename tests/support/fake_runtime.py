"""A runtime without any library: the brighter an image, the more probable is its first label."""

from types import TracebackType
from typing import Self

import numpy as np
import onnx

from unfreeze.contract.model.manifest import METADATA_KEY, Manifest
from unfreeze.contract.model.model_file import ModelFile
from unfreeze.contract.model.seal import sealed
from unfreeze.serve.runtimes.base import RuntimeOptions
from unfreeze.serve.runtimes.registry import RuntimeSpec

FAKE = RuntimeSpec(name="fake", summary="for tests", module="support.fake_runtime", extra="fake", uses_cpu=True)
opened: list[tuple[ModelFile, RuntimeOptions]] = []


def check_available() -> None:
    """Do nothing: it needs no library."""


def open_model(model: ModelFile, options: RuntimeOptions) -> "FakeRuntime":
    """Record the arguments and load the model."""
    opened.append((model, options))
    return FakeRuntime(model.manifest)


class FakeRuntime:
    """Implements `Runtime`; derives from nothing, as a runtime of a third party would not."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def buffer(self, images: int) -> np.ndarray:
        """Allocate host memory."""
        return np.empty((images, *self.manifest.preprocess.shape), np.uint8)

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Return the brightness of each image as the probability of the first label."""
        brightness = pixels.mean(axis=(1, 2, 3), dtype=np.float32) / 255
        return np.stack([brightness, 1 - brightness], axis=1)

    def close(self) -> None:
        """Do nothing: it holds no resources."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def graphless_model(manifest: Manifest) -> bytes:
    """Return a sealed model file that has a manifest and an empty graph."""
    model = onnx.ModelProto()
    model.metadata_props.add(key=METADATA_KEY, value=manifest.to_json())
    return sealed(model.SerializeToString())
