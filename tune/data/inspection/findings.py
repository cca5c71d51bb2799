"""Problems of a dataset, described for users: what was found, in which files, and what to do."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfreeze.contract.counted import counted, first_few
from unfreeze.tune.data.dataset import TEST, TRAIN, VAL, Dataset, Skipped, printable, stored_path
from unfreeze.tune.data.images import is_utf8
from unfreeze.tune.data.inspection.duplicates import Copy, find_same_bytes
from unfreeze.tune.data.inspection.fingerprints import Fingerprints
from unfreeze.tune.data.labels import quoted, spelling_groups

_EXAMPLES = 20


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of problem.

    Args:
        kind: "undecodable", "names", "skipped", "case", "few-images", "val-classes", "test-classes", "duplicates",
            "duplicates-labels", "near-duplicates", "near-duplicates-labels", "deep-range", "deep-contrast",
            "unlabeled-undecodable", "unlabeled-copies", "teacher-validation",
            "teacher-training" or "teacher".
        text: what was found and what to do.
        count: number of files, images or labels concerned.
        paths: all of them, printable: files by their path in the dataset, copies as "copy = original" or
            "copy ~ original", labels.
        handled: whether it needs no action, so that `--strict` does not reject the dataset because of it.
    """

    kind: str
    text: str
    count: int
    paths: tuple[str, ...]
    handled: bool = False

    def describe(self) -> str:
        """Return the text and the first five paths."""
        return f"{self.text}: {first_few(self.paths)}"

    def excerpt(self) -> dict[str, Any]:
        """Return the fields with at most 20 paths, for documents that must stay small."""
        return vars(self) | {"paths": self.paths[:_EXAMPLES]}


def find_unused_files(dataset: Dataset, undecodable: Sequence[Skipped]) -> Iterator[Finding]:
    """Report files that are not used, by what has to be done about them.

    Args:
        dataset: the dataset, with the files that were skipped when it was read.
        undecodable: its images that cannot be decoded.
    """
    names = [item for item in dataset.skipped if not is_utf8(item.path)]
    others = [item for item in dataset.skipped if is_utf8(item.path)]
    for kind, items, one, many, advice in (
        (
            "undecodable",
            undecodable,
            "cannot be decoded and is",
            "cannot be decoded and are",
            "replace or remove such files",
        ),
        (
            "names",
            names,
            "has a name that is not UTF-8 and is",
            "have names that are not UTF-8 and are",
            "rename such files",
        ),
        ("skipped", others, "was found and is", "were found and are", "check whether such files are needed"),
    ):
        reasons = Counter(item.reason for item in items).most_common(3)
        why = "; ".join(f"{number:,} x {reason}" for reason, number in reasons)
        text = f"{counted(len(items), f'file {one}', f'files {many}')} not used ({why}); {advice}"
        yield finding(kind, text, (path_name(item.path, dataset.root) for item in items))


def find_alike_labels(labels: Sequence[str]) -> Finding:
    """Report classes whose names differ only in case, surrounding spaces or Unicode normalization."""
    groups = spelling_groups(labels)
    text = (
        f"{counted(len(groups), 'class is', 'classes are')} written in more than one way, which differ only in case, "
        "surrounding spaces or Unicode normalization; use one name for each class"
    )
    return finding("case", text, (" = ".join(map(quoted, group)) for group in groups))


def find_small_classes(labels: Sequence[str], prints: Fingerprints, folds: int) -> Finding:
    """Report classes with fewer training images than cross-validation has folds."""
    counts = Counter(image.label for image, split in zip(prints.images, prints.splits, strict=True) if split == TRAIN)
    small = [f"{label}: {counts[index]}" for index, label in enumerate(labels) if counts[index] < folds]
    text = (
        f"{counted(len(small), 'class has', 'classes have')} fewer than {folds} training images (one per "
        "cross-validation fold); add images, or merge classes"
    )
    return finding("few-images", text, small)


def find_missing_classes(dataset: Dataset, prints: Fingerprints) -> Iterator[Finding]:
    """Report classes without validation or test images."""
    for split, word in ((VAL, "validation"), (TEST, "test")):
        pairs = zip(prints.images, prints.splits, strict=True)
        present = {image.label for image, own in pairs if own == split}
        missing = [label for index, label in enumerate(dataset.labels) if index not in present]
        text = (
            f"{counted(len(missing), 'class has', 'classes have')} no {word} images, so that the {word} accuracy says "
            f"nothing about {'it' if len(missing) == 1 else 'them'}; add {word} images"
        )
        yield finding(f"{split}-classes", text, missing if split in dataset.splits else ())


def find_copies(
    root: Path,
    prints: Fingerprints,
    near: Sequence[Copy],
    relabeled: Sequence[Copy],
    near_relabeled: Sequence[Copy],
) -> Iterator[Finding]:
    """Report images that are in the dataset twice.

    Args:
        root: the folder of the dataset.
        prints: fingerprints of its images.
        near: copies that differ in size, quality or brightness.
        relabeled: copies of the same bytes that have another label.
        near_relabeled: copies that differ in size, quality or brightness, and in their label.
    """
    biased = "so that the accuracy measured on them is too high; keep one of each pair"
    for kind, copies, sign, text in (
        (
            "duplicates",
            find_same_bytes(prints),
            "=",
            ("is", "are", f"in an earlier split too, byte for byte, {biased}"),
        ),
        (
            "duplicates-labels",
            relabeled,
            "=",
            (
                "equals",
                "equal",
                "another image byte for byte under a different label; correct the label, or remove both",
            ),
        ),
        ("near-duplicates", near, "~", ("nearly equals", "nearly equal", f"one of an earlier split, {biased}")),
        (
            "near-duplicates-labels",
            near_relabeled,
            "~",
            ("nearly equals", "nearly equal", "another image under a different label; check both labels"),
        ),
    ):
        one, many, rest = text
        pairs = (
            f"{path_name(prints.images[copy.image].path, root)} {sign} "
            f"{path_name(prints.images[copy.original].path, root)}"
            for copy in copies
        )
        yield finding(kind, f"{counted(len(copies), f'image {one}', f'images {many}')} {rest}", pairs)


def finding(kind: str, text: str, paths: Iterable[str], *, handled: bool = False) -> Finding:
    """Make a finding that counts its paths."""
    every = tuple(paths)
    return Finding(kind=kind, text=text, count=len(every), paths=every, handled=handled)


def path_name(path: Path, root: Path) -> str:
    """Return a path in the dataset as printable text."""
    return printable(Path(stored_path(path, root)))
