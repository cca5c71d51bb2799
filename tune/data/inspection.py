"""Look at a data set before learning from it, and say what is wrong with it."""

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unfreeze.contract.reporting import Reporter
from unfreeze.tune.data.dataset import TEST, TRAIN, VAL, Dataset, Skipped, printable, stored_path
from unfreeze.tune.data.duplicates import Copy, find_near_copies, find_other_labels, find_same_bytes
from unfreeze.tune.data.fingerprints import Fingerprints, take_fingerprints
from unfreeze.tune.data.images import is_utf8

_EXAMPLES = 20


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of problem.

    Args:
        kind: "undecodable", "names", "skipped", "case", "few-images", "duplicates", "duplicates-labels" or
            "near-duplicates".
        text: what was found and what to do, for people.
        count: how many files, images or labels it is about.
        paths: at most 20 of them, printable: files by their path in the data, copies as "copy = original" or
            "copy ~ original", labels.
    """

    kind: str
    text: str
    count: int
    paths: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found.

    Args:
        findings: one of each kind that there is.
        undecodable: the files to take out of the data set.
        contents: by split and label ("train ants"), the number of images and a hash of their names and bytes.
    """

    findings: tuple[Finding, ...]
    undecodable: tuple[Skipped, ...]
    contents: dict[str, str]


def inspect_dataset(dataset: Dataset, folds: int, reporter: Reporter) -> Inspection:
    """Read every image of every split once, and say what is wrong with the data.

    Args:
        dataset: what is to be learned from.
        folds: in how many parts cross-validation splits the training images; each wants one of every class.
        reporter: shows progress.

    Returns:
        The findings, those that lose images first, and the files that do not decode.
    """
    total = sum(len(images) for images in dataset.splits.values())
    prints, undecodable = take_fingerprints(dataset, reporter.track("inspecting the images", total))
    later = sum(split in (VAL, TEST) for split in prints.splits)
    near = find_near_copies(prints, reporter.track("comparing the splits", later))
    found = [
        *_lost_files(dataset, undecodable),
        _alike_labels(dataset.labels),
        _small_classes(dataset.labels, prints, folds),
        *_copies(dataset.root, prints, near),
    ]
    return Inspection(
        findings=tuple(finding for finding in found if finding.count),
        undecodable=undecodable,
        contents=_contents(dataset, prints),
    )


def _contents(dataset: Dataset, prints: Fingerprints) -> dict[str, str]:
    hashes: defaultdict[str, list[bytes]] = defaultdict(list)
    for image, split, digest in zip(prints.images, prints.splits, prints.digests, strict=True):
        name = stored_path(image.path, dataset.root).encode("utf-8", "surrogateescape")
        hashes[f"{split} {dataset.labels[image.label]}"].append(name + digest)
    return {
        part: f"{len(own)} images, {hashlib.sha256(b''.join(sorted(own))).hexdigest()[:16]}"
        for part, own in sorted(hashes.items())
    }


def _lost_files(dataset: Dataset, undecodable: Sequence[Skipped]) -> Iterator[Finding]:
    names = [item for item in dataset.skipped if not is_utf8(item.path)]
    others = [item for item in dataset.skipped if is_utf8(item.path)]
    for kind, items, text in (
        ("undecodable", undecodable, "{} files do not decode and are left out; replace or remove them"),
        ("names", names, "{} files have names that are not UTF-8 and are left out; rename them"),
        ("skipped", others, "{} files were found and are not used; see that none of them is wanted"),
    ):
        reasons = Counter(item.reason for item in items).most_common(3)
        why = "; ".join(f"{number} x {reason}" for reason, number in reasons)
        paths = (_name(item.path, dataset.root) for item in items)
        yield _finding(kind, f"{text.format(len(items))} ({why})", paths)


def _alike_labels(labels: Sequence[str]) -> Finding:
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for label in labels:
        plain = unicodedata.normalize("NFC", label).casefold().strip()
        alike[unicodedata.normalize("NFC", plain)].append(label)
    groups = [group for group in alike.values() if len(group) > 1]
    text = (
        f"{len(groups)} classes are written in more than one way, apart in case, blanks at the ends or the form of "
        f"their accents: {_some(' = '.join(map(repr, group)) for group in groups)}; give each one name"
    )
    return _finding("case", text, (" = ".join(group) for group in groups))


def _small_classes(labels: Sequence[str], prints: Fingerprints, folds: int) -> Finding:
    counts = Counter(image.label for image, split in zip(prints.images, prints.splits, strict=True) if split == TRAIN)
    small = {label: counts[index] for index, label in enumerate(labels) if counts[index] < folds}
    text = (
        f"{len(small)} classes have fewer than {folds} training images, one for each fold of the cross-validation: "
        f"{_some(f'{label} {count}' for label, count in small.items())}; add images, or join classes"
    )
    return _finding("few-images", text, small)


def _copies(root: Path, prints: Fingerprints, near: Sequence[Copy]) -> Iterator[Finding]:
    same, relabeled = find_same_bytes(prints), find_other_labels(prints)
    for kind, copies, sign, text in (
        ("duplicates", same, "=", "lie in an earlier split too, byte for byte: what is measured on them is too good"),
        ("duplicates-labels", relabeled, "=", "are another one byte for byte, under another label: one is wrong"),
        ("near-duplicates", near, "~", "are nearly one of an earlier split: what is measured on them is too good"),
    ):
        pairs = (
            f"{_name(prints.images[copy.image].path, root)} {sign} {_name(prints.images[copy.original].path, root)}"
            for copy in copies
        )
        yield _finding(kind, f"{len(copies)} images {text}; keep one of each pair", pairs)


def _finding(kind: str, text: str, paths: Iterable[str]) -> Finding:
    every = tuple(paths)
    return Finding(kind=kind, text=text, count=len(every), paths=every[:_EXAMPLES])


def _name(path: Path, root: Path) -> str:
    return printable(Path(stored_path(path, root)))


def _some(items: Iterable[str]) -> str:
    every = list(items)
    return ", ".join(every[:5]) + (", ..." if len(every) > 5 else "")  # noqa: PLR2004
