"""`label_issues.csv`: written, read, and applied to training images."""

import csv
from pathlib import Path

import pytest
from support.images import write_images

from unfreeze.contract.errors import DataError
from unfreeze.tune.data.dataset import Dataset, read_dataset
from unfreeze.tune.issues.issue import BLANK, LABEL, Issue
from unfreeze.tune.issues.issue_file import relabeled, without_issues, write_issues


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Four training images and one validation image of each of blue, green and red."""
    write_images(tmp_path / "data" / "train", 4)
    write_images(tmp_path / "data" / "val", 1, first_seed=500)
    return read_dataset(tmp_path / "data")


def _labels(dataset: Dataset, split: str = "train") -> dict[str, str]:
    return {
        image.path.relative_to(dataset.root).as_posix(): dataset.labels[image.label] for image in dataset.splits[split]
    }


def _file(folder: Path, *lines: str) -> Path:
    path = folder / "issues.csv"
    path.write_text("\n".join(["path,split,label,suggested_label,kind", *lines]))
    return path


@pytest.fixture
def written(dataset: Dataset, tmp_path: Path) -> Path:
    """A file with a suspected label, a blank image, and a suspected validation image."""
    first, second = dataset.splits["train"][0], dataset.splits["train"][5]
    common = {"split": "train", "kind": LABEL, "probability": 0.125, "suggested_probability": 0.75}
    issues = [
        Issue(path=first.path, label=0, suggested=2, **common),
        Issue(path=second.path, label=1, suggested=1, split="train", kind=BLANK),
        Issue(path=dataset.splits["val"][0].path, label=0, suggested=1, **common | {"split": "val"}),
    ]
    write_issues(tmp_path, issues, dataset)
    return tmp_path / "label_issues.csv"


def test_has_a_line_for_each_issue(written: Path) -> None:
    """With names of labels, and paths relative to the dataset."""
    with written.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "path": "train/blue/000.jpg",
        "split": "train",
        "label": "blue",
        "suggested_label": "red",
        "kind": "label",
        "probability": "0.1250",
        "suggested_probability": "0.7500",
        "detail": "",
    }
    assert [row["suggested_label"] for row in rows] == ["red", "green", "green"]
    assert rows[1]["probability"] == ""


def test_leaves_out_the_listed_training_images(dataset: Dataset, written: Path) -> None:
    """Validation images stay, and the note says so."""
    smaller, note = without_issues(dataset, written)
    assert _labels(dataset).keys() - _labels(smaller).keys() == {"train/blue/000.jpg", "train/green/001.jpg"}
    assert smaller.splits["val"] == dataset.splits["val"]
    assert note.startswith(f"2 training images left out, as {written} lists them; 1 validation or test image listed")


def test_relabels_the_listed_training_images(dataset: Dataset, written: Path) -> None:
    """Those without a better label keep theirs."""
    changed, note = relabeled(dataset, written)
    before, after = _labels(dataset), _labels(changed)
    assert {path: label for path, label in after.items() if before[path] != label} == {"train/blue/000.jpg": "red"}
    assert [image.label for image in changed.splits["train"]] == sorted(
        after_label for after_label in (image.label for image in changed.splits["train"])
    )
    assert changed.splits["val"] == dataset.splits["val"]
    assert note.startswith("1 training image relabeled")


def test_accepts_what_a_spreadsheet_writes(dataset: Dataset, tmp_path: Path) -> None:
    """Semicolons, a byte order mark, and other columns in another order."""
    path = tmp_path / "edited.csv"
    path.write_text("note;suggested_label;path;label\nsure;red;train/blue/002.jpg;blue\n", encoding="utf-8-sig")
    assert _labels(relabeled(dataset, path)[0])["train/blue/002.jpg"] == "red"
    assert "train/blue/002.jpg" not in _labels(without_issues(dataset, path)[0])


def test_says_which_images_are_not_there(dataset: Dataset, tmp_path: Path) -> None:
    """One missing image is a note, a file about other data an error."""
    here, gone = "train/blue/000.jpg,train,blue,red,label", "train/blue/999.jpg,train,blue,red,label"
    assert without_issues(dataset, _file(tmp_path, here, gone))[1].endswith("; 1 listed image not in the dataset")
    with pytest.raises(DataError, match=r"--relabel .*: none of its 1 image is in .*train/blue/999.jpg"):
        relabeled(dataset, _file(tmp_path, gone))


def test_an_empty_file_changes_nothing(dataset: Dataset, tmp_path: Path) -> None:
    """All of its lines may have been deleted."""
    assert without_issues(dataset, _file(tmp_path))[0] == dataset
    assert relabeled(dataset, _file(tmp_path))[0] == dataset


def test_rejects_what_cannot_be_applied(dataset: Dataset, tmp_path: Path) -> None:
    """An unknown label, a class without images, a missing file, and a table without suggestions."""
    with pytest.raises(DataError, match=r"suggests labels that the dataset lacks: Red .differs only in spelling"):
        relabeled(dataset, _file(tmp_path, "train/blue/000.jpg,train,blue,Red,label"))
    every = [f"train/blue/00{number}.jpg,train,blue,red,label" for number in range(4)]
    for change in (without_issues, relabeled):
        with pytest.raises(DataError, match="no usable image of blue in the train images"):
            change(dataset, _file(tmp_path, *every))
        with pytest.raises(DataError, match=r"gone.csv cannot be read: no such file; expected the label_issues.csv"):
            change(dataset, tmp_path / "gone.csv")
    plain = tmp_path / "plain.csv"
    plain.write_text("path,label\ntrain/blue/000.jpg,blue\n")
    with pytest.raises(DataError, match="has no column 'suggested_label'"):
        relabeled(dataset, plain)
