"""Inspect a dataset before training: read every image once, and report problems."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unfreeze.contract.images.depth import DeepRange
from unfreeze.contract.reporting import Reporter
from unfreeze.tune.data.dataset import TEST, VAL, Dataset, LabeledImage, Skipped, stored_path
from unfreeze.tune.data.inspection.blank import find_blank
from unfreeze.tune.data.inspection.deep_range import choose_deep_range, describe_deep_range, find_deep_images
from unfreeze.tune.data.inspection.duplicates import (
    Copy,
    find_near_copies,
    find_near_other_labels,
    find_other_labels,
)
from unfreeze.tune.data.inspection.findings import (
    Finding,
    find_alike_labels,
    find_copies,
    find_missing_classes,
    find_small_classes,
    find_unused_files,
)
from unfreeze.tune.data.inspection.fingerprints import Fingerprints, take_fingerprints
from unfreeze.tune.data.inspection.small import find_small
from unfreeze.tune.data.inspection.unlabeled import NO_UNLABELED, UnlabeledImages, inspect_unlabeled
from unfreeze.tune.options import AUTO_RANGE
from unfreeze.tune.store.store import NO_STORE, FeatureStore

__all__ = ["Finding", "Inspection", "inspect_dataset"]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The results of an inspection.

    Args:
        findings: one of each kind that was found.
        undecodable: the images to remove from the dataset.
        contents: by split and label ("train ants"), the number of images and a hash of their names and bytes.
        deep_range: the values of images of more than 8 bits that become 0 and 255, for `PreprocessSpec`; None is the
            full range of 16 bits.
        notes: decisions to be reported, one line each.
        digests: SHA-256 of the bytes of each image that can be decoded, by its path.
        contradictions: pairs of images that are equal byte for byte and have different labels.
        near_contradictions: pairs of images that are nearly equal and have different labels.
        blank: images that are nearly of one color.
        small: images that are much smaller than the others, each with its size.
        sizes: lowest, median and highest width and height in pixels, by name.
        unlabeled: images without labels that are trained on too.
    """

    findings: tuple[Finding, ...]
    undecodable: tuple[Skipped, ...]
    contents: dict[str, str]
    deep_range: DeepRange | None = None
    notes: tuple[str, ...] = ()
    digests: dict[Path, bytes] = field(default_factory=dict)
    contradictions: tuple[tuple[LabeledImage, LabeledImage], ...] = ()
    near_contradictions: tuple[tuple[LabeledImage, LabeledImage], ...] = ()
    blank: tuple[LabeledImage, ...] = ()
    small: tuple[tuple[LabeledImage, str], ...] = ()
    sizes: dict[str, list[int]] = field(default_factory=dict)
    unlabeled: tuple[LabeledImage, ...] = ()


def inspect_dataset(
    dataset: Dataset,
    folds: int,
    reporter: Reporter,
    deep_range: str = AUTO_RANGE,
    store: FeatureStore = NO_STORE,
    unlabeled: Path | None = None,
) -> Inspection:
    """Read every image of every split once, and report problems of the dataset.

    Args:
        dataset: the dataset.
        folds: number of cross-validation folds; each needs a training image of every class.
        reporter: shows progress.
        deep_range: "auto", "full" or "LOW,HIGH", as in `TuneOptions`.
        store: has what earlier inspections found in the same images.
        unlabeled: folder of images without labels that are trained on too.

    Returns:
        The findings, those that lose images first, and the images that cannot be decoded.

    Raises:
        DataError: the folder of images without labels does not exist, or has none that can be used.
    """
    total = sum(len(images) for images in dataset.splits.values())
    advance = reporter.track("inspecting the images", total)
    prints, undecodable = take_fingerprints(dataset, deep_range, advance, store)
    later = sum(split in (VAL, TEST) for split in prints.splits)
    near = find_near_copies(prints, reporter.track("comparing the splits", later))
    relabeled, near_relabeled = find_other_labels(prints), find_near_other_labels(prints)
    chosen = choose_deep_range(deep_range, prints)
    others = inspect_unlabeled(unlabeled, prints, deep_range, reporter, store) if unlabeled else NO_UNLABELED
    found = [
        *find_unused_files(dataset, undecodable),
        find_alike_labels(dataset.labels),
        find_small_classes(dataset.labels, prints, folds),
        *find_missing_classes(dataset, prints),
        *find_copies(dataset.root, prints, near, relabeled, near_relabeled),
        *find_deep_images(dataset.root, prints, chosen),
        *others.findings,
    ]
    return Inspection(
        findings=tuple(finding for finding in found if finding.count),
        undecodable=undecodable,
        contents=_contents(dataset, prints) | _unlabeled_contents(others),
        deep_range=chosen,
        notes=tuple(describe_deep_range(prints, chosen)),
        digests=dict(
            zip((one.path for one in (*prints.images, *others.images)), prints.digests + others.digests, strict=True)
        ),
        contradictions=_pairs(prints, relabeled),
        near_contradictions=_pairs(prints, near_relabeled),
        blank=find_blank(prints),
        small=find_small(prints),
        sizes=_sizes(prints),
        unlabeled=others.images,
    )


def _pairs(prints: Fingerprints, copies: Sequence[Copy]) -> tuple[tuple[LabeledImage, LabeledImage], ...]:
    return tuple((prints.images[copy.image], prints.images[copy.original]) for copy in copies)


def _sizes(prints: Fingerprints) -> dict[str, list[int]]:
    if not prints.images:
        return {}
    found = np.quantile(prints.sizes, [0, 0.5, 1], axis=0).round().astype(int)
    return {"width": found[:, 0].tolist(), "height": found[:, 1].tolist()}


def _unlabeled_contents(unlabeled: UnlabeledImages) -> dict[str, str]:
    if not unlabeled.images:
        return {}
    names = [image.path.name.encode("utf-8", "surrogateescape") for image in unlabeled.images]
    hashes = sorted(name + digest for name, digest in zip(names, unlabeled.digests, strict=True))
    return {"unlabeled": f"{len(hashes)} images, {hashlib.sha256(b''.join(hashes)).hexdigest()[:16]}"}


def _contents(dataset: Dataset, prints: Fingerprints) -> dict[str, str]:
    hashes: defaultdict[str, list[bytes]] = defaultdict(list)
    for image, split, digest in zip(prints.images, prints.splits, prints.digests, strict=True):
        name = stored_path(image.path, dataset.root).encode("utf-8", "surrogateescape")
        hashes[f"{split} {dataset.labels[image.label]}"].append(name + digest)
    return {
        key: f"{len(own)} images, {hashlib.sha256(b''.join(sorted(own))).hexdigest()[:16]}"
        for key, own in sorted(hashes.items())
    }
