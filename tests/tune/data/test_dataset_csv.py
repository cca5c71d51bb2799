"""Lists of images as people have them."""

import csv
from pathlib import Path

import pytest
from support.images import COLORS, write_images

from unfreeze.contract.errors import DataError
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.contract.model.manifest import Provenance
from unfreeze.tune.artifacts.checkpoint import LabeledFile, RunFacts
from unfreeze.tune.data.dataset import Dataset, LabeledImage, read_dataset, stored_path


def _write(file: Path, text: str, encoding: str = "utf-8") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode(encoding))
    return file


def _rows(data: Path, split: str = "") -> list[str]:
    return [f"{path.relative_to(data.parent)},{path.parent.name},{split}" for path in sorted(data.rglob("*.jpg"))]


def _names(dataset: Dataset, split: str) -> list[str]:
    return [stored_path(image.path, dataset.root) for image in dataset.splits[split]]


def test_a_list_gives_what_the_folder_that_it_lists_gives(tmp_path: Path) -> None:
    """The same images under the same indices in the same splits, whatever the order of the lines."""
    data = write_images(tmp_path / "data", 10)
    lines = [line.removesuffix(",") for line in _rows(data)]
    listed = read_dataset(_write(tmp_path / "list.csv", "\n".join(["path,label", *reversed(lines)])), seed=3)
    found = read_dataset(data, seed=3)
    assert (listed.labels, listed.splits, listed.root) == (found.labels, found.splits, tmp_path)
    assert (listed.skipped, len(listed.splits["val"])) == ((), 6)


def test_splits_are_taken_from_their_column_in_any_case_and_else_for_training(tmp_path: Path) -> None:
    """Columns in any order, others ignored; the splits' usual names; an empty one is train."""
    lines = [
        f"{color}/{number:03}.jpg,note,{split},{color}"
        for color in COLORS
        for number, split in enumerate(("", "train", " Training", "VAL", "Validation", "testing"))
    ]
    write_images(tmp_path / "data", 6)
    dataset = read_dataset(_write(tmp_path / "data" / "a.CSV", "\r\n".join(["Path,remark,split,Label", *lines, ""])))
    assert dataset.labels == ("blue", "green", "red")
    assert {split: len(images) for split, images in dataset.splits.items()} == {"train": 9, "val": 6, "test": 3}
    assert _names(dataset, "test") == ["blue/005.jpg", "green/005.jpg", "red/005.jpg"]
    assert all(dataset.labels[image.label] == image.path.parent.name for image in dataset.splits["val"])


def test_without_val_rows_a_part_of_each_class_is_put_aside(tmp_path: Path) -> None:
    """A split column that never says val is as good as none; the test rows stay."""
    write_images(tmp_path / "train", 10)
    write_images(tmp_path / "test", 1)
    lines = ["path,label,split", *_rows(tmp_path / "train", "train"), *_rows(tmp_path / "test", "test")]
    dataset = read_dataset(_write(tmp_path / "list.csv", "\n".join(lines)))
    assert [sum(image.label == label for image in dataset.splits["val"]) for label in range(3)] == [2, 2, 2]
    assert _names(dataset, "test") == ["test/blue/000.jpg", "test/green/000.jpg", "test/red/000.jpg"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_text_is_utf8_with_or_without_the_mark_that_spreadsheets_write(encoding: str, tmp_path: Path) -> None:
    """Labels with accents, commas and quotes; paths absolute, or out of the folder and back."""
    data = write_images(tmp_path / "data", 4)
    text = ["path,label"]
    text += [f'{data}/blue/{number:03}.jpg,"bleu, ""foncé"""' for number in range(4)]
    text += [f"../data/red/{number:03}.jpg, röd " for number in range(3)]
    text += ['../data/red/003.jpg, "röd"']
    dataset = read_dataset(_write(tmp_path / "lists" / "list.csv", "\n".join(text), encoding))
    assert dataset.labels == ('bleu, "foncé"', "röd")
    assert dataset.splits["train"][0].path.parent == data / "blue"
    assert dataset.splits["train"][-1].path.parent == data / "red"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,label", "a.jpg,ant"], "has no column path: line 1 reads 'file, label'"),
        (["path;label", "a.jpg;ant"], "has no column path: line 1 reads 'path;label'"),
        ([""], "has no column path: line 1 reads ''"),
        (["path,label,label", "a.jpg,ant,bee"], "has 2 columns label in line 1; keep one"),
        (["path,label", "a.jpg,ant", "", "b.jpg, "], "has no label in line 4; fill it in, or remove the line"),
        (["path,label", "a.jpg"], "has no label in line 2"),
        (["label,path", "ant,", "bee,b.jpg"], "has no path in line 2"),
        (["path,label,split", "a.jpg,ant,holdout"], "has the split 'holdout' in line 2; expected one of train, train"),
        (["path,label", "a.jpg,ant,bee"], "has 1 fields too many in line 2; put quotes around text with commas"),
        (["path,label", "a.jpg,ant", "./a.jpg,bee"], "lists a.jpg twice: ant for train in line 2 and bee for train in"),
        (["path,label,split", "a.jpg,ant", "a.jpg,ant,val"], "ant for train in line 2 and ant for val in line 3"),
        (["path,label"], "lists 0 images and none to train on; add rows with a path and a label"),
        (["path,label,split", "a.jpg,ant,val"], "lists 1 images and none to train on"),
        (
            ["path,label,split", "a.jpg,ant,", "b.jpg,bee,val"],
            "the training images lack: bee in line 3, which is for",
        ),
        (["path,label", "a.jpg,ant"], "holds 1 classes of training images; a classifier needs two or more"),
        (["path,label", 'a.jpg,"a\nb"', "b.jpg,bee"], "cannot be labels: .* line breaks"),
        (["path,label", "a.jpg,ant", '"b.jpg,bee'], "cannot be read at line 3: unexpected end of data; look for a"),
        (["path,label", "a.jpg,ant", "b.jpg,bee"], r"no usable image of ant, bee(?s:.*)a.jpg: there is no such file"),
        (["path,label", f"{'a' * 300}.jpg,ant", "b.jpg,bee"], "aaa.jpg: there is no such file"),
    ],
)
def test_lists_that_make_no_sense_are_refused_with_their_line(lines: list[str], message: str, tmp_path: Path) -> None:
    """Every message says what was found, and where."""
    with pytest.raises(DataError, match=message):
        read_dataset(_write(tmp_path / "list.csv", "\n".join(lines)))


def test_other_encodings_are_refused_with_their_line(tmp_path: Path) -> None:
    """What a spreadsheet saves as Latin-1 or as UTF-16 is no UTF-8."""
    text = "path,label\na.jpg,ant\nb.jpg,guêpe\n"
    with pytest.raises(DataError, match=r"list\.csv is not UTF-8 at line 3; save it as CSV in UTF-8"):
        read_dataset(_write(tmp_path / "list.csv", text, "latin-1"))
    with pytest.raises(DataError, match="is not UTF-8 at line 1"):
        read_dataset(_write(tmp_path / "list.csv", text, "utf-16"))


def test_missing_files_and_repeated_lines_are_skipped_and_named(tmp_path: Path) -> None:
    """What is left is learned from; an image that is listed twice alike counts once."""
    data = write_images(tmp_path / "data", 4)
    lines = ["path,label", *(line.removesuffix(",") for line in _rows(data))]
    lines += ["data/red/none.jpg,red", "data/./red/000.jpg,red"]
    dataset = read_dataset(_write(tmp_path / "list.csv", "\n".join(lines)))
    assert [(item.path, item.reason) for item in dataset.skipped] == [
        (data / "red" / "none.jpg", "there is no such file"),
        (data / "red" / "000.jpg", "line 15 repeats line 10; the image is used once"),
    ]
    assert sum(len(images) for images in dataset.splits.values()) == 12


def test_a_long_list_is_read_as_any_csv_writer_writes_it(tmp_path: Path) -> None:
    """Names with commas, quotes and line breaks come back as they are."""
    names = ['a,"b".jpg', "c\nd.jpg", " e.jpg", "f.jpg"]
    with (tmp_path / "list.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["path", "label", "split"])
        for number, name in enumerate(names):
            (tmp_path / name).write_bytes(b"x")
            writer.writerow([name, "ab"[number % 2], ("train", "val")[number // 2]])
    dataset = read_dataset(tmp_path / "list.csv")
    assert _names(dataset, "train") + _names(dataset, "val") == names


def test_a_run_finds_the_images_of_a_list_again(tmp_path: Path) -> None:
    """By the folder that the list lies in, by the list itself where it has moved, and by absolute paths."""
    facts = RunFacts(
        labels=("ant", "bee"),
        preprocess=PreprocessSpec(resize=(8,), crop=(8, 8)),
        temperature=1.0,
        provenance=Provenance(
            backbone="b", weights="none", weights_sha256="", cut="head", seed=0, images=2, versions={}
        ),
        metrics={},
        data="/was/here",
        val=(LabeledFile(path="ants/1.jpg", label=0), LabeledFile(path="/far/2.jpg", label=1)),
    )
    file = _write(tmp_path / "list.csv", "path,label\n")
    far = LabeledImage(path=Path("/far/2.jpg"), label=1)
    assert facts.images() == (LabeledImage(path=Path("/was/here/ants/1.jpg"), label=0), far)
    for data in (tmp_path, file, str(file)):
        assert facts.images(data) == (LabeledImage(path=tmp_path / "ants" / "1.jpg", label=0), far)
