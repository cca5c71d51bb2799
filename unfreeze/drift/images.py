"""Compare images with those that a model was validated on."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from unfreeze.contract.answers import probabilities_in
from unfreeze.contract.cores import usable_cores
from unfreeze.contract.drift.window import Drift, Window
from unfreeze.contract.errors import ImageError, UnfreezeError
from unfreeze.contract.folders import LeftOut
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare
from unfreeze.contract.reporting import Reporter
from unfreeze.serve.runtimes.registry import RuntimeName, open_runtime

_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class DriftOfImages:
    """How far images are from a model's validation images.

    Args:
        images: number of images that were compared.
        validation_images: number of images that the model was validated on.
        skipped: files that cannot be used, with the reason.
        drift: by quantity.
    """

    images: int
    validation_images: int
    skipped: tuple[str, ...]
    drift: tuple[Drift, ...]

    @property
    def alarm(self) -> bool:
        """Whether a difference is larger than chance explains, and relevant."""
        return any(one.alarm for one in self.drift)


def drift_of_images(
    model: Path, paths: Sequence[Path | LeftOut], device: RuntimeName, reporter: Reporter
) -> DriftOfImages:
    """Classify images, and compare them with those that the model was validated on.

    Args:
        model: path of a `model.onnx`.
        paths: image files.
        device: runtime that executes the model.
        reporter: shows progress.

    Raises:
        ModelError: the model cannot be loaded.
        UnfreezeError: it has no distributions of its validation images, or no image can be used.
    """
    with open_runtime(model, device) as runtime:
        manifest = runtime.manifest
        if manifest.drift is None:
            raise UnfreezeError(
                f"{model} was exported by an older version, which did not store what its validation images were like; "
                "export the run again"
            )
        window, skipped, count = Window(manifest.drift, 10 * max(1, len(paths))), list[str](), 0
        advance = reporter.track("images", len(paths))
        for batch in _prepared(paths, manifest.preprocess, min(_BATCH, manifest.max_batch)):
            pixels = [one for one in batch if isinstance(one, np.ndarray)]
            skipped += [one for one in batch if isinstance(one, str)]
            if pixels:
                stacked = np.stack(pixels)
                window.add(stacked, probabilities_in(runtime.run(stacked), manifest))
            count += len(pixels)
            advance(len(batch))
    if not count:
        raise UnfreezeError(
            f"none of the {len(paths):,} images can be used; the first: {skipped[0] if skipped else '-'}"
        )
    return DriftOfImages(
        images=count, validation_images=manifest.drift.images, skipped=tuple(skipped), drift=window.drift()
    )


def _prepared(paths: Sequence[Path | LeftOut], spec: PreprocessSpec, batch: int) -> Iterator[list[np.ndarray | str]]:
    """Decode on all cores, a batch ahead; a file that cannot be used becomes the reason."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        read = partial(_read, spec=spec)
        ahead = [pool.submit(read, path) for path in paths[:batch]]
        for start in range(batch, len(paths) + batch, batch):
            current, ahead = ahead, [pool.submit(read, path) for path in paths[start : start + batch]]
            yield [one.result() for one in current]


def _read(path: Path | LeftOut, spec: PreprocessSpec) -> np.ndarray | str:
    if isinstance(path, LeftOut):
        return path.message
    try:
        return prepare(path.read_bytes(), spec)
    except (OSError, ImageError) as error:
        return f"{path}: {getattr(error, 'strerror', None) or error}"
