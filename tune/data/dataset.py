"""Labeled images, split into those for training, validation and testing."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sklearn.model_selection import train_test_split

from unfreeze.contract.counted import counted, first_few
from unfreeze.contract.errors import DataError, OptionsError
from unfreeze.contract.folders import LeftOut, file_problem, summarize_ignored
from unfreeze.contract.model.manifest import check_labels
from unfreeze.tune.data import sources
from unfreeze.tune.data.images import TEST, TRAIN, VAL, LabeledImage, Skipped, printable, stored_path
from unfreeze.tune.data.labels import quoted, spelling_groups
from unfreeze.tune.data.sources.source import DataSource, Found, SourceOptions

__all__ = ["TEST", "TRAIN", "VAL", "Dataset", "LabeledImage", "Skipped", "printable", "read_dataset", "stored_path"]

_DEFAULTS = SourceOptions()


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Labeled images by split.

    Args:
        root: the folder that image paths are stored relative to.
        labels: the class names, in the order of their indices.
        splits: "train", "val" and, if there is one, "test".
        skipped: files and folders that are not used, with the reason.
        ignored: hidden entries, and what archives, editors and operating systems leave behind.
        notes: choices that the source made, to be reported, one line each.
    """

    root: Path
    labels: tuple[str, ...]
    splits: dict[str, tuple[LabeledImage, ...]]
    skipped: tuple[Skipped, ...]
    ignored: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    def summary(self) -> Iterator[str]:
        """Describe in a few lines what was found, what is not used and what was ignored."""
        counts = ", ".join(f"{len(images):,} {name}" for name, images in self.splits.items())
        classes = counted(len(self.labels), "class", "classes")
        yield f"{classes}; images: {counts}; {counted(len(self.skipped), 'file')} skipped"
        yield from self.notes
        if ignored := summarize_ignored(self.ignored):
            yield ignored

    def without(self, skipped: Sequence[Skipped]) -> "Dataset":
        """Return the dataset without files that could not be decoded.

        Args:
            skipped: the files, with the reason.

        Raises:
            DataError: a class is left without training images, or a split without any image.
        """
        paths = {item.path for item in skipped}
        splits = {
            name: tuple(image for image in images if image.path not in paths) for name, images in self.splits.items()
        }
        smaller = replace(self, splits=splits, skipped=self.skipped + tuple(skipped))
        _check_splits(smaller)
        return smaller

    def with_training_images(self, images: tuple[LabeledImage, ...]) -> "Dataset":
        """Return the dataset with other training images.

        Raises:
            DataError: a class is left without training images.
        """
        changed = replace(self, splits=self.splits | {TRAIN: images})
        _check_splits(changed)
        return changed


def read_dataset(
    root: str | os.PathLike[str], *, val_fraction: float = 0.2, seed: int = 0, options: SourceOptions = _DEFAULTS
) -> Dataset:
    """Find the images of a dataset, without decoding them.

    If the source has no validation images, a stratified part of the training images is held out, the same for the
    same seed.

    Args:
        root: the folder or the file that one of `unfreeze.tune.data.sources.SOURCES` reads.
        val_fraction: share of the training images that is held out, 0 to 1.
        seed: random seed of the held-out part.
        options: how the source is read.

    Returns:
        The images, sorted by label and path.

    Raises:
        DataError: no source reads `root`, it has fewer than two classes, a class that is empty or whose name cannot be
            a label, or the source finds an error.
        OptionsError: an option is given that the source does not use.
    """
    root = Path(root)
    source = _source_of(root)
    unused = sorted(options.given() - source.options)
    if unused:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        verb, pronoun = ("does", "it") if len(unused) == 1 else ("do", "them")
        raise OptionsError(f"{flags} {verb} not apply to {source.name}, and {root} is one; leave {pronoun} out")
    found = source.read(root, options)
    _check_classes(found, root)
    dataset = Dataset(
        root=found.root,
        labels=found.labels,
        splits=found.splits,
        skipped=found.skipped,
        ignored=found.ignored,
        notes=found.notes,
    )
    _check_splits(dataset)
    return dataset if VAL in dataset.splits else _with_val(dataset, val_fraction, seed)


def _source_of(root: Path) -> DataSource:
    source = next((source for source in sources.SOURCES if source.accepts(root)), None)
    if source is None:
        expected = ", or ".join(source.expects for source in sources.SOURCES)
        problem = file_problem(root) or "a file of another kind"
        raise DataError(f"{root} cannot be read as a dataset ({problem}); expected {expected}")
    return source


def _check_classes(found: Found, root: Path) -> None:
    labels = found.labels
    if len(labels) < 2:  # noqa: PLR2004
        names = f" ({', '.join(printable(Path(label)) for label in labels)})" if labels else ""
        raise DataError(
            f"{root} holds {counted(len(labels), 'class', 'classes')} of training images{names}; a classifier needs "
            f"two or more{found.interpretation and ': '}{found.interpretation}{_describe_skipped(found.skipped)}"
        )
    try:
        check_labels(labels)
    except ValueError as error:
        raise DataError(f"the class names in {printable(root)} cannot be labels: {error}") from None


def _check_splits(dataset: Dataset) -> None:
    for name, images in dataset.splits.items():
        present = {image.label for image in images}
        empty = [label for index, label in enumerate(dataset.labels) if index not in present]
        if not images or (name == TRAIN and empty):
            raise DataError(
                f"no usable image of {first_few(empty)} in the {name} images of {dataset.root}; add some, or remove "
                f"{'the class' if name == TRAIN else 'the split'}{_describe_skipped(dataset.skipped)}"
            )


def _describe_skipped(skipped: Sequence[Skipped]) -> str:
    if not skipped:
        return ""
    lines = first_few((f"{printable(item.path)}: {item.reason}" for item in skipped), "\n  ")
    return f"\nnot used: {counted(len(skipped), 'file')}\n  {lines}"


def _with_val(dataset: Dataset, val_fraction: float, seed: int) -> Dataset:
    images = dataset.splits[TRAIN]
    counts = Counter(image.label for image in images)
    single = [label for index, label in enumerate(dataset.labels) if counts[index] < 2]  # noqa: PLR2004
    if single:
        raise DataError(
            f"{counted(len(single), 'class has', 'classes have')} one image, which cannot both train and validate: "
            f"{first_few(single)}{_spelling_hint(dataset.labels, single)}; add images, or a val split"
        )
    most = len(images) - len(dataset.labels)  # one of each class is left to train on
    test_size = min(max(len(dataset.labels), round(len(images) * val_fraction)), most)
    train, val = train_test_split(
        images, test_size=test_size, random_state=seed, stratify=[image.label for image in images]
    )
    splits = dataset.splits | {TRAIN: _by_path(train), VAL: _by_path(val)}
    split = replace(dataset, splits=splits)
    _check_splits(split)
    return split


def _by_path(images: Sequence[LabeledImage]) -> tuple[LabeledImage, ...]:
    return tuple(sorted(images, key=lambda image: image.path))


def _spelling_hint(labels: Sequence[str], some: Sequence[str]) -> str:
    groups = [group for group in spelling_groups(labels) if set(group) & set(some)]
    written = first_few(" = ".join(map(quoted, group)) for group in groups)
    return f" (differing only in spelling: {written})" if groups else ""
