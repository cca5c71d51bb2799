"""Data sets from any source: splits, and the paths that a run stores."""

from pathlib import Path

import pytest
from support.images import write_images

from unfreeze.contract.errors import DataError, OptionsError
from unfreeze.tune.data import sources
from unfreeze.tune.data.dataset import Skipped, read_dataset, stored_path
from unfreeze.tune.data.images import LabeledImage
from unfreeze.tune.data.sources import DataSource, Found, SourceOptions
from unfreeze.tune.options import TuneOptions


def _names(images: tuple[LabeledImage, ...]) -> list[str]:
    return [f"{image.path.parent.name}/{image.path.name}" for image in images]


def test_a_folder_per_class_is_split_by_class_and_by_seed(tmp_path: Path) -> None:
    """Without a val split, a fifth of each class is held out, the same for the same seed."""
    data = write_images(tmp_path / "data", 20)
    dataset = read_dataset(data, val_fraction=0.2, seed=4)
    assert dataset.labels == ("blue", "green", "red")
    for split, each in (("train", 16), ("val", 4)):
        assert [sum(image.label == label for image in dataset.splits[split]) for label in range(3)] == [each] * 3
    assert not set(_names(dataset.splits["train"])) & set(_names(dataset.splits["val"]))
    assert all(dataset.labels[image.label] == image.path.parent.name for image in dataset.splits["train"])
    assert read_dataset(data, seed=4) == dataset
    assert _names(read_dataset(data, seed=5).splits["val"]) != _names(dataset.splits["val"])


def test_a_large_val_fraction_leaves_something_to_train_on(tmp_path: Path) -> None:
    """Each class keeps a training image, whatever the fraction."""
    dataset = read_dataset(write_images(tmp_path / "data", 3), val_fraction=0.9)
    assert {image.label for image in dataset.splits["train"]} == {0, 1, 2}


def test_taking_images_out_never_leaves_an_empty_class(tmp_path: Path) -> None:
    """Files that cannot be decoded are taken out; a class that is left without training images is an error."""
    dataset = read_dataset(write_images(tmp_path / "data", 5))
    first = dataset.splits["train"][0]
    smaller = dataset.without([Skipped(path=first.path, reason="truncated")])
    assert len(smaller.splits["train"]) == len(dataset.splits["train"]) - 1
    assert smaller.skipped[-1].reason == "truncated"
    blue = [image for image in dataset.splits["train"] if image.label == 0]
    with pytest.raises(DataError, match=r"no usable image of blue in the train images(?s:.*)not used: 4 files\n"):
        dataset.without([Skipped(path=image.path, reason="truncated") for image in blue])


def test_stored_paths_survive_a_move_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images in the data's folder are stored relative to it, others by absolute path; links are not resolved."""
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


def _read_lines(data: Path, options: SourceOptions) -> Found:
    """Read a made-up source: a text file of "label path" lines."""
    assert options.split_folders == "none"
    lines = [line.split() for line in data.read_text().splitlines()]
    labels = tuple(sorted({label for label, _ in lines}))
    images = tuple(LabeledImage(path=Path(path), label=labels.index(label)) for label, path in lines)
    return Found(root=data.parent, labels=labels, splits={"train": images}, notes=("read from lines",))


LINES = DataSource(
    name="a list of lines",
    expects="a .lines file",
    options=frozenset({"split_folders"}),
    accepts=lambda data: data.suffix == ".lines" and data.is_file(),
    read=_read_lines,
)


def test_a_registered_source_is_used_like_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry in the list of sources: data sets of its kind are read, split and checked, and errors name it."""
    monkeypatch.setattr(sources, "SOURCES", [*sources.SOURCES, LINES])
    file = tmp_path / "images.lines"
    file.write_text("".join(f"{'ab'[number % 2]} /far/{number}.jpg\n" for number in range(10)))
    options = SourceOptions(split_folders="none")
    dataset = read_dataset(file, options=options)
    assert (dataset.labels, dataset.root) == (("a", "b"), tmp_path)
    assert {split: len(images) for split, images in dataset.splits.items()} == {"train": 8, "val": 2}
    assert list(dataset.summary()) == ["2 classes; images: 8 train, 2 val; 0 files skipped", "read from lines"]
    file.write_text("a /far/1.jpg\n")
    with pytest.raises(DataError, match=r"holds 1 class of training images \(a\); a classifier needs two or more"):
        read_dataset(file, options=options)
    with pytest.raises(DataError, match=r"no such file\); expected a folder .*, or a \.csv .*, or a \.lines file"):
        read_dataset(tmp_path / "none.lines")


def test_options_of_another_source_are_refused(tmp_path: Path) -> None:
    """An option that would have no effect is an error, which names it and the source."""
    data = write_images(tmp_path / "data", 3)
    given = SourceOptions(label_column="class", drop_contradictions=True)
    with pytest.raises(
        OptionsError, match=r"--drop-contradictions, --label-column do not apply to a folder, and .*data"
    ):
        read_dataset(data, options=given)


def test_options_of_a_run_reach_the_source() -> None:
    """Every option of sources is an option of tuning, with the same default."""
    assert SourceOptions.of(TuneOptions()) == SourceOptions()
    given = {"path_column": "p", "label_column": "l", "split_column": "s", "drop_contradictions": True}
    assert SourceOptions.of(TuneOptions(**given, split_folders="none")) == SourceOptions(**given, split_folders="none")
