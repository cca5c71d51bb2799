"""Compare images with those that a model was validated on."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from unfreeze.contract.answers import read_answer
from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.cores import usable_cores
from unfreeze.contract.drift.reference import DriftReference
from unfreeze.contract.drift.window import Window, WindowDrift
from unfreeze.contract.errors import ImageError, UnfreezeError
from unfreeze.contract.folders import LeftOut
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare_sized
from unfreeze.contract.model.manifest import Manifest
from unfreeze.contract.reporting import Reporter
from unfreeze.serve.runtimes.registry import RuntimeName, open_runtime

_BATCH = 32
_FARTHEST = 24


@dataclass(frozen=True, kw_only=True)
class SeenImage:
    """An image with what the model answered.

    Args:
        path: of the file.
        label: the most probable one.
        confidence: its probability.
        ood_score: out-of-distribution score; None if the model has none.
    """

    path: Path
    label: str
    confidence: float
    ood_score: float | None


@dataclass(frozen=True, kw_only=True)
class DriftOfImages:
    """How far images are from a model's validation images.

    Args:
        model: path of the model file.
        labels: of the model.
        images: number of images that were compared.
        reference: what the validation images were like.
        counts: of the images, by quantity and bin.
        skipped: files that cannot be used, with the reason.
        drift: how far they are from the validation images.
        farthest: the images with the largest out-of-distribution scores, or, where the model has none, those that it
            is least sure of.
    """

    model: Path
    labels: tuple[str, ...]
    images: int
    reference: DriftReference
    counts: dict[str, tuple[int, ...]]
    skipped: tuple[str, ...]
    drift: WindowDrift
    farthest: tuple[SeenImage, ...]

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        compared = f"{self.images:,} images, compared with {self.reference.images:,} validation images"
        if self.drift.alarms:
            return f"{compared}: {', '.join(self.drift.alarms)} differ by more than chance explains"
        return f"{compared}: no difference that chance does not explain"

    @property
    def farthest_title(self) -> str:
        """What `farthest` shows."""
        has_scores = any(one.ood_score is not None for one in self.farthest)
        return "Farthest from the training images" if has_scores else "Least confident images"

    @property
    def alarm(self) -> bool:
        """Whether a difference is larger than chance explains, and relevant."""
        return bool(self.drift.alarms)


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
        window, skipped = Window(manifest.drift, 10 * max(1, len(paths)), manifest.projected), list[str]()
        seen, farthest = 0, list[SeenImage]()
        advance = reporter.track("images", len(paths))
        for batch in _prepared(paths, manifest.preprocess, min(_BATCH, manifest.max_batch)):
            usable = [one for one in batch if isinstance(one, _Prepared)]
            skipped += [one for one in batch if isinstance(one, str)]
            if usable:
                pixels = np.stack([one.pixels for one in usable])
                answers = runtime.run(pixels)
                for one in usable:
                    window.add_size(one.size)
                window.add(pixels, answers)
                farthest = _farthest([*farthest, *_seen(usable, answers, manifest)])
            seen += len(usable)
            advance(len(batch))
    if not seen:
        raise UnfreezeError(
            f"none of the {len(paths):,} images can be used; the first: {skipped[0] if skipped else '-'}"
        )
    return DriftOfImages(
        model=model,
        labels=manifest.labels,
        images=seen,
        reference=manifest.drift,
        counts={name: tuple(counts.tolist()) for name, counts in window.counts().items()},
        skipped=tuple(skipped),
        drift=window.drift(),
        farthest=tuple(farthest),
    )


def _seen(
    prepared: Sequence["_Prepared"], answers: Float32[np.ndarray, "n a"], manifest: Manifest
) -> Iterator[SeenImage]:
    for one, row in zip(prepared, answers, strict=True):
        found = read_answer(row, manifest, 1)
        (top,) = found.predictions
        yield SeenImage(path=one.path, label=top.label, confidence=top.score, ood_score=found.ood_score)


def _farthest(images: Sequence[SeenImage]) -> list[SeenImage]:
    return sorted(images, key=lambda image: (-(image.ood_score or 0.0), image.confidence))[:_FARTHEST]


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """A decoded image: its file, its pixels for the network, and its width and height in the file."""

    path: Path
    pixels: UInt8[np.ndarray, "h w 3"]
    size: tuple[int, int]


def _prepared(paths: Sequence[Path | LeftOut], spec: PreprocessSpec, batch: int) -> Iterator[list["_Prepared | str"]]:
    """Decode on all cores, a batch ahead; a file that cannot be used becomes the reason."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        read = partial(_read, spec=spec)
        ahead = [pool.submit(read, path) for path in paths[:batch]]
        for start in range(batch, len(paths) + batch, batch):
            current, ahead = ahead, [pool.submit(read, path) for path in paths[start : start + batch]]
            yield [one.result() for one in current]


def _read(path: Path | LeftOut, spec: PreprocessSpec) -> "_Prepared | str":
    if isinstance(path, LeftOut):
        return path.message
    try:
        pixels, size = prepare_sized(path.read_bytes(), spec)
    except (OSError, ImageError) as error:
        return f"{path}: {getattr(error, 'strerror', None) or error}"
    return _Prepared(path=path, pixels=pixels, size=size)
