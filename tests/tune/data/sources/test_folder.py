"""Folders with a subfolder of images per class, as they are found on disks."""

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from support.images import draw_image, encode, write_images

from unfreeze.contract.errors import DataError
from unfreeze.contract.folders import summarize_ignored
from unfreeze.tune.data.dataset import Dataset, Skipped, printable, read_dataset
from unfreeze.tune.data.sources import SourceOptions

CASES = Path(__file__).parents[5] / "shared" / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="needs the failing inputs in ../shared/cases")
NO_SPLITS = SourceOptions(split_folders="none")


def _counts(dataset: Dataset) -> dict[str, int]:
    return {split: len(images) for split, images in dataset.splits.items()}


def _names(dataset: Dataset) -> list[str]:
    images = (image for images in dataset.splits.values() for image in images)
    return sorted(image.path.relative_to(dataset.root).as_posix() for image in images)


def _skipped(dataset: Dataset) -> dict[str, str]:
    return {item.path.relative_to(dataset.root).as_posix(): item.reason for item in dataset.skipped}


@pytest.mark.parametrize("names", [("train", "val"), ("train", "valid"), ("Training", "Validation"), ("TRAIN", "VAL")])
def test_split_folders_are_found_by_their_usual_names(names: tuple[str, str], tmp_path: Path) -> None:
    """Train and val under their usual names, in any case, and a test folder beside them."""
    for name, count in zip((*names, "test"), (5, 2, 1), strict=True):
        write_images(tmp_path / name, count)
    dataset = read_dataset(tmp_path)
    assert _counts(dataset) == {"train": 15, "val": 6, "test": 3}
    assert all(image.path.is_relative_to(tmp_path / names[1]) for image in dataset.splits["val"])


def test_files_that_are_not_images_are_skipped_with_a_reason(tmp_path: Path) -> None:
    """Notes, empty files and files beside the classes are named; image suffixes count in any case, at any depth."""
    data = write_images(tmp_path / "data", 4)
    (data / "red" / "notes.txt").write_text("x")
    (data / "red" / "README").write_text("x")
    (data / "red" / "empty").write_bytes(b"")
    (data / "readme.md").write_text("x")
    (data / "red" / "deeper").mkdir()
    (data / "red" / "deeper" / "more.JPG").write_bytes(encode(draw_image((200, 0, 0), 1)))
    dataset = read_dataset(data)
    assert _skipped(dataset) == {
        "red/notes.txt": "not an image (.txt)",
        "red/README": "not an image (no suffix)",
        "red/empty": "an empty file",
        "readme.md": "lies in no class's folder",
    }
    assert "red/deeper/more.JPG" in _names(dataset)


def test_images_are_found_by_their_content_where_the_suffix_does_not_say(tmp_path: Path) -> None:
    """Without a suffix, with a suffix of no image, and with that of another format."""
    data = write_images(tmp_path / "data", 4)
    image = draw_image((200, 0, 0), 1)
    for name, kind in (("a", "JPEG"), ("b.jpg_large", "PNG"), ("c.dat", "WEBP"), ("d.1", "TIFF"), ("e.png", "GIF")):
        (data / "red" / name).write_bytes(encode(image, kind))
    dataset = read_dataset(data)
    assert {"red/a", "red/b.jpg_large", "red/c.dat", "red/d.1", "red/e.png"} <= set(_names(dataset))
    assert dataset.skipped == ()


def test_leftovers_of_other_programs_are_ignored_and_counted(tmp_path: Path) -> None:
    """They are no classes, no images and no findings; one line says how many of which kind there are."""
    data = write_images(tmp_path / "data", 4)
    before = read_dataset(data)
    for color in ("blue", "red"):
        (data / "__MACOSX" / color).mkdir(parents=True)
        (data / "__MACOSX" / color / "._000.jpg").write_bytes(b"\0\5\x16\7")
        (data / color / ".DS_Store").write_bytes(b"x")
    write_images(data / "red" / ".ipynb_checkpoints", 2)
    (data / "lost+found").mkdir()
    (data / ".git").mkdir()
    dataset = read_dataset(data)
    assert (dataset.labels, dataset.splits, dataset.skipped) == (before.labels, before.splits, ())
    assert summarize_ignored(dataset.ignored) == (
        "ignored 10 files: 6 .ipynb_checkpoints (Jupyter), 2 __MACOSX (macOS), 2 .DS_Store (macOS)"
    )
    assert list(dataset.summary()) == [
        "3 classes; images: 9 train, 3 val; 0 files skipped",
        summarize_ignored(dataset.ignored),
    ]


@pytest.mark.parametrize("split", ["", "train"])
def test_everything_that_is_not_used_is_named_with_its_reason(split: str, tmp_path: Path) -> None:
    """Links are followed, to files and folders; dangling links and pipes are skipped, at every level."""
    data = tmp_path / "data"
    root = write_images(data / split, 6)
    shutil.move(root / "red", tmp_path / "elsewhere")
    (root / "red").symlink_to(tmp_path / "elsewhere")
    write_images(tmp_path / "more", 2, first_seed=70)
    (root / "blue" / "linked").symlink_to(tmp_path / "more" / "blue")
    (root / "blue" / "linked.jpg").symlink_to(tmp_path / "more" / "red" / "000.jpg")
    (root / "blue" / "loop").symlink_to(root)
    (root / "green" / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    (root / "yellow").symlink_to(tmp_path / "nothing")
    os.mkfifo(root / "green" / "pipe.jpg")
    dataset = read_dataset(data)
    assert Counter(Path(name).parent.name for name in _names(dataset)) == {"red": 6, "green": 6, "blue": 7, "linked": 2}
    prefix = f"{split}/" if split else ""
    assert _skipped(dataset) == {
        f"{prefix}green/gone.jpg": "a dangling link",
        f"{prefix}green/pipe.jpg": "a named pipe, not a file",
        f"{prefix}yellow": "a dangling link",
    }
    assert next(dataset.summary()).endswith("; 3 files skipped")
    assert summarize_ignored(dataset.ignored) == "ignored 1 file: 1 link to a folder that is listed already"


def test_classes_named_like_splits_are_explained(tmp_path: Path) -> None:
    """The error says which folder was used as which split, and which option uses folders as classes; it then works."""
    for label in ("train", "bus", "car"):
        write_images(tmp_path / "drawn", 5)
        shutil.move(tmp_path / "drawn" / "red", tmp_path / "data" / label)
        shutil.rmtree(tmp_path / "drawn")
    with pytest.raises(
        DataError,
        match=r"holds 0 classes of training images; a classifier needs two or more: train was used as the train "
        r"split, and bus, car next to it were not used; if each folder is a class, give --split-folders none",
    ):
        read_dataset(tmp_path / "data")
    dataset = read_dataset(tmp_path / "data", options=NO_SPLITS)
    assert (dataset.labels, _counts(dataset)) == (("bus", "car", "train"), {"train": 12, "val": 3})


def test_folders_that_cannot_be_learned_from_are_refused(tmp_path: Path) -> None:
    """No folder, one class, an empty class, a class of one image, a class that only val has."""
    expected = "expected a folder with a subfolder of images per class, or a .csv or .tsv file with a column of image"
    with pytest.raises(DataError, match=rf"nothing cannot be read as a dataset \(no such file\); {expected}"):
        read_dataset(tmp_path / "nothing")
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(
        DataError, match=rf"data\.zip cannot be read as a dataset \(a file of another kind\); {expected}"
    ):
        read_dataset(tmp_path / "data.zip")
    (tmp_path / "one" / "ants").mkdir(parents=True)
    (tmp_path / "one" / "1.jpg").write_bytes(b"x")
    with pytest.raises(
        DataError,
        match=r"holds 1 class of training images \(ants\); a classifier needs two or more: each subfolder was "
        r"used as a class; 1 file lies in no subfolder",
    ):
        read_dataset(tmp_path / "one")
    data = write_images(tmp_path / "data", 3)
    (data / "yellow").mkdir()
    (data / "yellow" / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"no usable image of yellow.*(?s:.*)notes.txt: not an image \(.txt\)"):
        read_dataset(data)
    (data / "yellow" / "one.png").write_bytes(encode(draw_image((200, 200, 0), 1), "PNG"))
    with pytest.raises(DataError, match="1 class has one image, which cannot both train and validate: yellow; add"):
        read_dataset(data)
    (data / "yellow").rename(data / "Red")
    with pytest.raises(DataError, match=r"validate: Red \(differing only in spelling: 'Red' = 'red'\); add images"):
        read_dataset(data)
    write_images(tmp_path / "split" / "train", 2)
    write_images(tmp_path / "split" / "val", 2)
    (tmp_path / "split" / "val" / "wasps").mkdir()
    (tmp_path / "split" / "val" / "BLUE").mkdir()
    with pytest.raises(
        DataError,
        match=r"val has classes that the training images lack: BLUE \(differs only in spelling from 'blue'\), wasps",
    ):
        read_dataset(tmp_path / "split")
    for name in ("wasps", "BLUE"):
        (tmp_path / "split" / "val" / name).rmdir()
    for file in (tmp_path / "split" / "val").rglob("*.jpg"):
        file.unlink()
    with pytest.raises(DataError, match="no usable image of blue, green, red in the val images"):
        read_dataset(tmp_path / "split")


def test_ambiguous_folders_are_refused_or_named(tmp_path: Path) -> None:
    """Two folders for one split, or val without train, are errors; other folders and files beside train are named."""
    for name in ("train", "val", "valid"):
        write_images(tmp_path / "twice" / name, 2)
    with pytest.raises(DataError, match="has two folders for the val split: val and valid; keep one, or give --split-"):
        read_dataset(tmp_path / "twice")
    for name in ("val", "test"):
        write_images(tmp_path / "no train" / name, 2)
    with pytest.raises(DataError, match="has test, val but no train folder; add one, or give --split-folders none if"):
        read_dataset(tmp_path / "no train")
    assert read_dataset(tmp_path / "no train", options=NO_SPLITS).labels == ("test", "val")
    for name in ("train", "annotations"):
        write_images(tmp_path / "more" / name, 2)
    (tmp_path / "more" / "readme.md").write_text("x")
    assert _skipped(read_dataset(tmp_path / "more")) == {
        "annotations": "is next to train, which was used for the training images; --split-folders none uses it",
        "readme.md": "lies in no split's folder",
    }


def test_names_that_are_not_utf8_are_skipped_or_refused(tmp_path: Path) -> None:
    """An image whose name is not UTF-8 is skipped; a class whose name has a line break is refused."""
    data = write_images(tmp_path / "data", 3)
    odd = data / "red" / os.fsdecode(b"caf\xe9.jpg")
    odd.write_bytes(b"x")
    (skipped,) = read_dataset(data).skipped
    assert skipped == Skipped(path=odd, reason="its name is not UTF-8; rename it")
    assert printable(odd).endswith("red/caf\\xe9.jpg")
    (data / "red").rename(data / "r\ned")
    with pytest.raises(DataError, match="cannot be labels"):
        read_dataset(data)


@needs_cases
@pytest.mark.parametrize(
    ("case", "counts"),
    [
        ("macos-archive", {"train": 22, "val": 6}),
        ("no-suffix", {"train": 24, "val": 12}),
        ("12-bits-in-16", {"train": 24, "val": 12}),
    ],
)
def test_reads_the_collected_cases(case: str, counts: dict[str, int]) -> None:
    """Folders that other tools failed on: two classes, every image used, the leftovers counted."""
    dataset = read_dataset(CASES / case)
    assert (dataset.labels, _counts(dataset), dataset.skipped) == (("disc", "square"), counts, ())
    if case == "macos-archive":
        assert summarize_ignored(dataset.ignored) == "ignored 28 files: 28 __MACOSX (macOS)"
