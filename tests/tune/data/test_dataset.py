"""Folders of images as people have them."""

import os
from pathlib import Path

import pytest
from support.images import draw_image, encode, write_images

from unfreeze.contract.errors import DataError
from unfreeze.tune.data.dataset import Skipped, printable, read_dataset, stored_path


def _names(images: tuple) -> list[str]:
    return [f"{image.path.parent.name}/{image.path.name}" for image in images]


def test_a_folder_per_class_is_split_by_class_and_by_seed(tmp_path: Path) -> None:
    """Without a val folder, a fifth of each class is put aside, the same for the same seed."""
    data = write_images(tmp_path / "data", 20)
    dataset = read_dataset(data, val_fraction=0.2, seed=4)
    assert dataset.labels == ("blue", "green", "red")
    for split, each in (("train", 16), ("val", 4)):
        assert [sum(image.label == label for image in dataset.splits[split]) for label in range(3)] == [each] * 3
    assert not set(_names(dataset.splits["train"])) & set(_names(dataset.splits["val"]))
    assert all(dataset.labels[image.label] == image.path.parent.name for image in dataset.splits["train"])
    assert read_dataset(data, seed=4) == dataset
    assert _names(read_dataset(data, seed=5).splits["val"]) != _names(dataset.splits["val"])


@pytest.mark.parametrize("names", [("train", "val"), ("train", "valid"), ("Training", "Validation"), ("TRAIN", "VAL")])
def test_split_folders_are_found_by_their_usual_names(names: tuple[str, str], tmp_path: Path) -> None:
    """Train and val under the names that people give them, and a test folder beside."""
    for name, count in zip((*names, "test"), (5, 2, 1), strict=True):
        write_images(tmp_path / name, count)
    dataset = read_dataset(tmp_path)
    assert {split: len(images) for split, images in dataset.splits.items()} == {"train": 15, "val": 6, "test": 3}
    assert all(image.path.is_relative_to(tmp_path / names[1]) for image in dataset.splits["val"])


def test_other_files_are_skipped_by_name_and_hidden_ones_ignored(tmp_path: Path) -> None:
    """Notes, thumbnails' databases and strays are named with a reason; suffixes count in any case."""
    data = write_images(tmp_path / "data", 4)
    (data / "red" / "notes.txt").write_text("x")
    (data / "red" / "Thumbs.db").write_bytes(b"x")
    (data / "red" / ".DS_Store").write_bytes(b"x")
    (data / "readme.md").write_text("x")
    (data / ".cache").mkdir()
    (data / "red" / "deeper").mkdir()
    (data / "red" / "deeper" / "more.JPG").write_bytes(encode(draw_image((200, 0, 0), 1)))
    dataset = read_dataset(data)
    assert {item.path.name: item.reason for item in dataset.skipped} == {
        "notes.txt": ".txt is no image's suffix",
        "Thumbs.db": ".db is no image's suffix",
        "readme.md": "lies in no class's folder",
    }
    assert "deeper/more.JPG" in [name for images in dataset.splits.values() for name in _names(images)]


def test_folders_that_cannot_be_learned_from_are_refused(tmp_path: Path) -> None:
    """No folder, one class, an empty class, a class of one image, a class that only val has."""
    with pytest.raises(DataError, match="is no folder; expected one with a folder of images per class"):
        read_dataset(tmp_path / "nothing")
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"data\.zip is no folder; .* or a \.csv file with the columns path and label"):
        read_dataset(tmp_path / "data.zip")
    (tmp_path / "one" / "ants").mkdir(parents=True)
    with pytest.raises(DataError, match="holds 1 classes of training images; a classifier needs two or more"):
        read_dataset(tmp_path / "one")
    data = write_images(tmp_path / "data", 3)
    (data / "yellow").mkdir()
    (data / "yellow" / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"no usable image of yellow.*(?s:.*)notes.txt: .txt is no image's suffix"):
        read_dataset(data)
    (data / "yellow" / "one.png").write_bytes(encode(draw_image((200, 200, 0), 1), "PNG"))
    with pytest.raises(DataError, match="yellow has one image, which cannot both train and validate"):
        read_dataset(data)
    write_images(tmp_path / "split" / "train", 2)
    write_images(tmp_path / "split" / "val", 2)
    (tmp_path / "split" / "val" / "wasps").mkdir()
    with pytest.raises(DataError, match="has classes that the training images lack: wasps"):
        read_dataset(tmp_path / "split")
    (tmp_path / "split" / "val" / "wasps").rmdir()
    for file in (tmp_path / "split" / "val").rglob("*.jpg"):
        file.unlink()
    with pytest.raises(DataError, match="no usable image of blue, green, red in the val images"):
        read_dataset(tmp_path / "split")


def test_ambiguous_folders_are_refused_or_named(tmp_path: Path) -> None:
    """Two folders for one split, or val without train, are errors; others beside train are named."""
    for name in ("train", "val", "valid"):
        write_images(tmp_path / "twice" / name, 2)
    with pytest.raises(DataError, match="has two folders for val: val and valid; keep one"):
        read_dataset(tmp_path / "twice")
    for name in ("val", "test"):
        write_images(tmp_path / "no train" / name, 2)
    with pytest.raises(DataError, match="has test, val but no train folder"):
        read_dataset(tmp_path / "no train")
    for name in ("train", "annotations"):
        write_images(tmp_path / "more" / name, 2)
    (skipped,) = read_dataset(tmp_path / "more").skipped
    assert (skipped.path.name, skipped.reason) == ("annotations", "lies beside train and is no split of its own")


def test_names_that_no_file_can_hold_are_named(tmp_path: Path) -> None:
    """An image whose name is no UTF-8 is skipped, a class whose name breaks the line is refused."""
    data = write_images(tmp_path / "data", 3)
    odd = data / "red" / os.fsdecode(b"caf\xe9.jpg")
    odd.write_bytes(b"x")
    (skipped,) = read_dataset(data).skipped
    assert skipped == Skipped(path=odd, reason="its name is not UTF-8; rename it")
    assert printable(odd).endswith("red/caf\\xe9.jpg")
    (data / "red").rename(data / "r\ned")
    with pytest.raises(DataError, match="cannot be labels"):
        read_dataset(data)


def test_hidden_folders_are_ignored(tmp_path: Path) -> None:
    """What notebooks and file managers leave behind is nobody's image."""
    data = write_images(tmp_path / "data", 4)
    before = read_dataset(data)
    write_images(data / "red" / ".ipynb_checkpoints", 2)
    assert read_dataset(data) == before


def test_a_large_val_fraction_leaves_something_to_train_on(tmp_path: Path) -> None:
    """Whatever is asked for, each class keeps a training image."""
    dataset = read_dataset(write_images(tmp_path / "data", 3), val_fraction=0.9)
    assert {image.label for image in dataset.splits["train"]} == {0, 1, 2}


def test_taking_images_out_never_leaves_an_empty_class(tmp_path: Path) -> None:
    """Files that turn out not to decode leave the data set, and if a class goes with them that is an error."""
    dataset = read_dataset(write_images(tmp_path / "data", 5))
    first = dataset.splits["train"][0]
    smaller = dataset.without([Skipped(path=first.path, reason="truncated")])
    assert len(smaller.splits["train"]) == len(dataset.splits["train"]) - 1
    assert smaller.skipped[-1].reason == "truncated"
    blue = [image for image in dataset.splits["train"] if image.label == 0]
    with pytest.raises(DataError, match="no usable image of blue in the train images"):
        dataset.without([Skipped(path=image.path, reason="truncated") for image in blue])


def test_a_run_keeps_paths_that_survive_a_move_where_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images in the data's folder are kept relative to it, others by their absolute path; links are not followed."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    for path, root, stored in (
        (tmp_path / "data" / "ants" / "1.jpg", tmp_path / "data", "ants/1.jpg"),
        (tmp_path / "data" / "linked" / "1.jpg", tmp_path / "data", "linked/1.jpg"),
        (tmp_path / "data" / ".." / "1.jpg", tmp_path / "data", (tmp_path / "1.jpg").as_posix()),
        (tmp_path / "data2" / "1.jpg", tmp_path / "data", (tmp_path / "data2" / "1.jpg").as_posix()),
    ):
        assert stored_path(path, root) == stored
    monkeypatch.chdir(tmp_path / "data")
    assert stored_path(Path("ants/1.jpg"), Path()) == "ants/1.jpg"
    assert stored_path(Path("../1.jpg"), Path()) == (tmp_path / "1.jpg").as_posix()
