"""The training images that backbones are compared on, in an order whose beginnings are stratified."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from unfreeze.contract.arrays import Int64
from unfreeze.contract.counted import counted, first_few
from unfreeze.contract.errors import DataError
from unfreeze.contract.images.depth import DeepRange
from unfreeze.contract.reporting import Reporter
from unfreeze.tune.data.dataset import TRAIN, VAL, Dataset, LabeledImage
from unfreeze.tune.data.folds import Fold, stratified_folds
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.pipeline.prepare import inspect_images, read_images
from unfreeze.tune.selection.choose import FOLDS
from unfreeze.tune.store.store import FeatureStore

_VALIDATION_IMAGES = 200


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Images to compare backbones on.

    Args:
        images: training images, whose labels are 0 to C - 1; the first n of them are a stratified subset for every n.
        validation: a few validation images of the same classes, to check graphs with.
        classes: C.
        seed: random seed of the folds.
        digest: of the images' contents and order.
        deep_range: range of images of more than 8 bits.
        digests: SHA-256 of the bytes of each image, by its path.
    """

    images: tuple[LabeledImage, ...]
    validation: tuple[LabeledImage, ...]
    classes: int
    seed: int
    digest: str
    deep_range: DeepRange | None
    digests: Mapping[Path, bytes]

    @cached_property
    def labels(self) -> Int64[np.ndarray, " n"]:
        """Labels of the images."""
        return np.array([image.label for image in self.images], np.int64)

    @property
    def least(self) -> int:
        """The smallest number of first images with one of every class in each fold."""
        return FOLDS * self.classes

    def folds(self, count: int) -> tuple[Fold, ...]:
        """Split the first images; all backbones are evaluated on the same folds."""
        return stratified_folds(self.labels[:count], FOLDS, self.seed)


def read_sample(
    data: str | os.PathLike[str], most: int, tuning: TuneOptions, reporter: Reporter, store: FeatureStore
) -> Sample:
    """Read and inspect a dataset, and draw the images to compare on.

    Args:
        data: folder of labeled images, or a CSV file.
        most: largest number of training images.
        tuning: how the dataset is read.
        reporter: shows progress.
        store: has what earlier inspections found.

    Raises:
        DataError: the images cannot be used, or fewer than two classes have an image for each fold.
    """
    dataset = read_images(data, tuning, reporter)
    inspection = inspect_images(dataset, tuning, reporter, store)
    dataset = dataset.without(inspection.undecodable)
    kept = _large_classes(dataset, reporter)
    images = _relabeled(dataset.splits[TRAIN], kept)
    order = stratified_order(np.array([image.label for image in images], np.int64), tuning.seed, FOLDS)
    content = json.dumps([inspection.contents, kept, most, tuning.seed])
    return Sample(
        images=tuple(images[row] for row in order[: max(most, FOLDS * len(kept))]),
        validation=tuple(_evenly_spaced(_relabeled(dataset.splits[VAL], kept))),
        classes=len(kept),
        seed=tuning.seed,
        digest=hashlib.sha256(content.encode()).hexdigest(),
        deep_range=inspection.deep_range,
        digests=inspection.digests,
    )


def stratified_order(labels: Int64[np.ndarray, " n"], seed: int, least: int) -> Int64[np.ndarray, " n"]:
    """Order images at random so that every beginning has about equal shares of each class.

    Args:
        labels: of the images.
        seed: random seed.
        least: number of images of every class to put first.

    Returns:
        The images' numbers.
    """
    rng = np.random.default_rng(seed)
    places = np.empty(len(labels))
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        ranks = np.arange(len(rows))
        places[rows] = np.where(ranks < least, -1.0, (ranks + 0.5) / len(rows))
    return np.argsort(places, kind="stable")


def _large_classes(dataset: Dataset, reporter: Reporter) -> list[int]:
    """Return the classes with an image for each fold; the others are reported."""
    counts = np.bincount([image.label for image in dataset.splits[TRAIN]], minlength=len(dataset.labels))
    kept = [label for label, count in enumerate(counts) if count >= FOLDS]
    small = [dataset.labels[label] for label, count in enumerate(counts) if count < FOLDS]
    if len(kept) < 2:  # noqa: PLR2004
        raise DataError(
            f"{counted(len(kept), 'class has', 'classes have')} {FOLDS} or more training images; to compare backbones "
            "by cross-validation, two or more need them"
        )
    if small:
        named = counted(len(small), "class", "classes")
        reporter.info(f"left out of the comparison, with fewer than {FOLDS} images: {named} ({first_few(small)})")
    return kept


def _relabeled(images: tuple[LabeledImage, ...], kept: list[int]) -> list[LabeledImage]:
    numbers = {label: number for number, label in enumerate(kept)}
    return [LabeledImage(path=image.path, label=numbers[image.label]) for image in images if image.label in numbers]


def _evenly_spaced(images: list[LabeledImage]) -> list[LabeledImage]:
    return images[:: -(-len(images) // _VALIDATION_IMAGES)] if images else []
