"""Find images without labels, and leave out what cannot be decoded and copies of the dataset's images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unfreeze.contract.counted import counted
from unfreeze.contract.errors import DataError
from unfreeze.contract.folders import file_problem, list_files
from unfreeze.contract.reporting import Reporter
from unfreeze.tune.data.dataset import Dataset
from unfreeze.tune.data.images import TRAIN, UNLABELED, VAL, LabeledImage, Skipped, is_utf8
from unfreeze.tune.data.inspection.duplicates import find_near_copies
from unfreeze.tune.data.inspection.findings import Finding, finding, path_name
from unfreeze.tune.data.inspection.fingerprints import Fingerprints, take_fingerprints
from unfreeze.tune.data.recognize import not_an_image
from unfreeze.tune.store.store import FeatureStore


@dataclass(frozen=True, kw_only=True)
class UnlabeledImages:
    """Images without labels.

    Args:
        images: that can be decoded and are no copies.
        digests: SHA-256 of the bytes of each.
        findings: what is left out.
    """

    images: tuple[LabeledImage, ...] = ()
    digests: tuple[bytes, ...] = ()
    findings: tuple[Finding, ...] = ()


NO_UNLABELED = UnlabeledImages()


def inspect_unlabeled(
    folder: Path, labeled: Fingerprints, deep_range: str, reporter: Reporter, store: FeatureStore
) -> UnlabeledImages:
    """Read every image below a folder once.

    Copies are left out: a copy of a validation image would bring the teacher's answer about it into training, one of a
    training image would count it twice. They are found as in `unfreeze.tune.data.inspection.duplicates`.

    Args:
        folder: has images at any depth.
        labeled: fingerprints of the dataset's images, of all splits.
        deep_range: "auto", "full" or "LOW,HIGH", as in `TuneOptions`.
        reporter: shows progress.
        store: has what earlier inspections found in the same images.

    Raises:
        DataError: the folder does not exist, or has no image that can be used.
    """
    images, unused = _list(folder)
    dataset = Dataset(root=folder, labels=(), splits={TRAIN: images}, skipped=())
    advance = reporter.track("inspecting the images without labels", len(images))
    prints, undecodable = take_fingerprints(dataset, deep_range, advance, store)
    copies = _copies(prints, labeled)
    kept = [row for row in range(len(prints.images)) if row not in copies]
    if not kept:
        raise DataError(
            f"--unlabeled {folder} has no image that can be used: {counted(len(copies), 'copy', 'copies')} of images "
            f"of the dataset, {counted(len(undecodable), 'file')} that cannot be decoded, {len(unused):,} of other "
            "kinds; add images, or leave out --unlabeled"
        )
    left_out = [*undecodable, *unused]
    findings = (
        finding(
            "unlabeled-undecodable",
            f"{counted(len(left_out), 'file')} of --unlabeled cannot be decoded and {_verb(len(left_out))} not used",
            (f"{path_name(item.path, folder)} ({item.reason})" for item in left_out),
            handled=True,
        ),
        finding(
            "unlabeled-copies",
            f"{counted(len(copies), 'image')} of --unlabeled {_verb(len(copies))} left out as a copy of one of the "
            "dataset or of one before it",
            (f"{path_name(prints.images[row].path, folder)} = {original}" for row, original in sorted(copies.items())),
            handled=True,
        ),
    )
    return UnlabeledImages(
        images=tuple(prints.images[row] for row in kept),
        digests=tuple(prints.digests[row] for row in kept),
        findings=tuple(one for one in findings if one.count),
    )


def _verb(count: int) -> str:
    return "is" if count == 1 else "are"


def check_folder(folder: Path) -> None:
    """Check that there is such a folder.

    Raises:
        DataError: there is none.
    """
    if not folder.is_dir():
        problem = file_problem(folder) or "a file"
        raise DataError(f"--unlabeled {folder} is not a folder ({problem}); give a folder of images")


def _list(folder: Path) -> tuple[tuple[LabeledImage, ...], list[Skipped]]:
    check_folder(folder)
    listing = list_files(folder)
    unused = [Skipped(path=entry.path, reason=entry.reason) for entry in listing.unusable]
    images = []
    for path in listing.files:
        reason = not_an_image(path) if is_utf8(path) else "its name is not UTF-8; rename it"
        if reason is None:
            images.append(LabeledImage(path=path, label=UNLABELED))
        else:
            unused.append(Skipped(path=path, reason=reason))
    return tuple(images), unused


def _copies(prints: Fingerprints, labeled: Fingerprints) -> dict[int, str]:
    """Return the numbers of images that are copies, each with the name of its original."""
    count = len(labeled.images)
    both = Fingerprints(
        images=labeled.images + prints.images,
        splits=(TRAIN,) * count + (VAL,) * len(prints.images),
        digests=labeled.digests + prints.digests,
        thumbnails=np.concatenate([labeled.thumbnails, prints.thumbnails]),
        ranges=labeled.ranges + prints.ranges,
        sizes=np.concatenate([labeled.sizes, prints.sizes]),
    )
    originals: dict[bytes, int] = {}
    found = {}
    for row, digest in enumerate(both.digests):
        original = originals.setdefault(digest, row)
        if original != row and row >= count:
            found[row - count] = both.images[original].path.name
    near = find_near_copies(both, lambda _: None)
    return {copy.image - count: both.images[copy.original].path.name for copy in near} | found
