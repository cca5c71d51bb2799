"""Lists of images in CSV files, as spreadsheets and other tools write them."""

import csv
from collections import Counter
from pathlib import Path

import pytest
from support.images import COLORS, write_images

from unfreeze.contract.errors import DataError
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.contract.model.manifest import Provenance
from unfreeze.tune.artifacts.checkpoint import LabeledFile, RunFacts
from unfreeze.tune.data.dataset import Dataset, LabeledImage, read_dataset, stored_path
from unfreeze.tune.data.sources import SourceOptions

CASES = Path(__file__).parents[5] / "shared" / "cases" / "csv"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="needs the failing inputs in ../shared/cases")


def _write(file: Path, text: str, encoding: str = "utf-8") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode(encoding))
    return file


def _rows(data: Path, split: str = "") -> list[str]:
    return [f"{path.relative_to(data.parent)},{path.parent.name},{split}" for path in sorted(data.rglob("*.jpg"))]


def _names(dataset: Dataset, split: str) -> list[str]:
    return [stored_path(image.path, dataset.root) for image in dataset.splits[split]]


def test_a_list_gives_the_same_data_set_as_its_folder(tmp_path: Path) -> None:
    """The same images under the same indices in the same splits, whatever the order of the lines."""
    data = write_images(tmp_path / "data", 10)
    lines = [line.removesuffix(",") for line in _rows(data)]
    listed = read_dataset(_write(tmp_path / "list.csv", "\n".join(["path,label", *reversed(lines)])), seed=3)
    found = read_dataset(data, seed=3)
    assert (listed.labels, listed.splits, listed.root) == (found.labels, found.splits, tmp_path)
    assert (listed.skipped, len(listed.splits["val"])) == ((), 6)


def test_splits_come_from_their_column_and_default_to_train(tmp_path: Path) -> None:
    """Columns in any order, others ignored; the usual names of splits in any case; an empty one means train."""
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


def test_without_val_rows_a_part_of_each_class_is_held_out(tmp_path: Path) -> None:
    """A split column without val rows does not count; the test rows stay."""
    write_images(tmp_path / "train", 10)
    write_images(tmp_path / "test", 1)
    lines = ["path,label,split", *_rows(tmp_path / "train", "train"), *_rows(tmp_path / "test", "test")]
    dataset = read_dataset(_write(tmp_path / "list.csv", "\n".join(lines)))
    assert [sum(image.label == label for image in dataset.splits["val"]) for label in range(3)] == [2, 2, 2]
    assert _names(dataset, "test") == ["test/blue/000.jpg", "test/green/000.jpg", "test/red/000.jpg"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_text_is_utf8_with_or_without_a_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    """Labels with accents, commas and quotes; absolute paths, and paths that leave the folder of the list."""
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
        (["url,label", "a.jpg,ant"], "has no column of image paths with a usual name such as path, image, filename, f"),
        (["url,label", "a.jpg,ant"], r"line 1 names 2 columns: 'url', 'label'; name the column with --path-column"),
        ([""], "has no column of image paths .*; line 1 names 0 columns"),
        (["path,label,label", "a.jpg,ant,bee"], "has 2 columns of labels in line 1: label; keep one"),
        (
            ["path,class,category", "a.jpg,ant,bee"],
            "has 2 columns of labels in line 1: class, category; choose one with",
        ),
        (["path,label", "a.jpg,ant", "", "b.jpg, "], "has no label in line 4; fill it in, or remove the line"),
        (["path,label", "a.jpg"], "has no label in line 2"),
        (["label,path", "ant,", "bee,b.jpg"], "has no path in line 2"),
        (["path,label,split", "a.jpg,ant,holdout"], "has the split 'holdout' in line 2; expected one of train, train"),
        (["path,label", "a.jpg,ant,bee"], "has 1 field too many in line 2; put quotes around fields that contain the"),
        (["path,label", "a.jpg,ant,b,c"], "has 2 fields too many in line 2"),
        (["path,label", "a.jpg,ant", "./a.jpg,bee"], "a.jpg: ant for train in line 2 and bee for train in line 3"),
        (["path,label,split", "a.jpg,ant", "a.jpg,ant,val"], "ant for train in line 2 and ant for val in line 3"),
        (["path,label"], "lists 0 usable images and none to train on; add rows with a path and a label"),
        (["path,label,split", "a.jpg,ant,val"], "lists 1 usable image and none to train on"),
        (["path,label,split", "a.jpg,ant,", "b.jpg,bee,val"], "the training images lack: bee in line 3, for val"),
        (
            ["path,label,split", "a.jpg,ant,", "b.jpg,Ant,val"],
            r"images lack: Ant \(differs only in spelling from 'ant'\) in line 3, for val",
        ),
        (
            ["path,label", "a.jpg,ant"],
            r"holds 1 class of training images \(ant\); .* those of column 'label'; --label-",
        ),
        (["path,label", 'a.jpg,"a\nb"', "b.jpg,bee"], "cannot be labels: .* line breaks"),
        (["path,label", "a.jpg,ant", '"b.jpg,bee'], "cannot be read at line 3: unexpected end of data; look for a"),
        (["path,label", "a.jpg,ant", "b.jpg,bee"], r"no usable image of ant, bee(?s:.*)a.jpg: no such file"),
        (["path,label", f"{'a' * 300}.jpg,ant", "b.jpg,bee"], "aaa.jpg: cannot be read: File name too long"),
    ],
)
def test_malformed_lists_are_refused_with_their_line(lines: list[str], message: str, tmp_path: Path) -> None:
    """Every message says what was found, and where."""
    with pytest.raises(DataError, match=message):
        read_dataset(_write(tmp_path / "list.csv", "\n".join(lines)))


def test_a_missing_header_is_recognized(tmp_path: Path) -> None:
    """If line 1 holds the path of a file, the advice is to add a header."""
    write_images(tmp_path, 3)
    with pytest.raises(
        DataError, match=r"line 1 seems to hold an image instead of column names: .*; add a header line"
    ):
        read_dataset(_write(tmp_path / "list.csv", "red/000.jpg,red\nblue/000.jpg,blue\n"))


def test_other_encodings_are_refused_with_advice(tmp_path: Path) -> None:
    """Latin-1 is refused with its line; UTF-16, with and without a mark, with how to convert it."""
    text = "path,label\na.jpg,ant\nb.jpg,guêpe\n"
    with pytest.raises(DataError, match=r"list\.csv is not UTF-8 at line 3; save it as CSV in UTF-8"):
        read_dataset(_write(tmp_path / "list.csv", text, "latin-1"))
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        with pytest.raises(DataError, match=r"is UTF-16, not UTF-8; .* iconv -f UTF-16 -t UTF-8 list.csv > utf8.csv"):
            read_dataset(_write(tmp_path / "list.csv", text, encoding))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize(("path", "label", "split"), [("path", "label", "split"), ("File Name", "Category", "subset")])
def test_delimiters_and_usual_columns_are_found(
    delimiter: str, path: str, label: str, split: str, tmp_path: Path
) -> None:
    """With other columns around them and a byte order mark; what is not the default is reported in one line."""
    write_images(tmp_path, 4)
    lines = [["id", path, label, split]]
    lines += [
        [f"{number}", f"{color}/{number:03}.jpg", color, ("train", "train", "val", "test")[number]]
        for color in COLORS
        for number in range(4)
    ]
    text = "\n".join(delimiter.join(line) for line in lines)
    dataset = read_dataset(_write(tmp_path / "list.tsv", text, "utf-8-sig"))
    assert {name: len(images) for name, images in dataset.splits.items()} == {"train": 6, "val": 3, "test": 3}
    word = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}[delimiter]
    found = f"image paths from column {path}, labels from column {label}, splits from column {split}"
    is_default = delimiter == "," and path == "path"
    assert dataset.notes == (() if is_default else (f"the fields are separated by {word}; {found}",))


def test_columns_can_be_named(tmp_path: Path) -> None:
    """Names given by options come before the usual ones, in any case; a name that is not there is an error."""
    write_images(tmp_path, 4)
    lines = ["path,where,label,species,phase"]
    lines += [f"x,{color}/{number:03}.jpg,x,{color},test" for color in COLORS for number in range(4)]
    lines[1:7] = [line.replace("test", "train") for line in lines[1:7]]
    file = _write(tmp_path / "list.csv", "\n".join(lines).replace(",test", ",train", 4))
    options = SourceOptions(path_column="where", label_column="Species", split_column="phase")
    dataset = read_dataset(file, options=options)
    assert dataset.labels == ("blue", "green", "red")
    assert _names(dataset, "test") == ["red/002.jpg", "red/003.jpg"]
    with pytest.raises(
        DataError, match=r"has no column 'kind'; line 1 names 5 columns: .*; name the column with --label"
    ):
        read_dataset(file, options=SourceOptions(path_column="where", label_column="kind"))


def test_a_column_named_like_splits_that_holds_something_else_is_ignored(tmp_path: Path) -> None:
    """Only the name "split" and the option make other values an error."""
    data = write_images(tmp_path / "data", 4)
    lines = ["path,label,dataset", *(line + "imagenet" for line in _rows(data))]
    dataset = read_dataset(_write(tmp_path / "list.csv", "\n".join(lines)))
    assert set(dataset.splits) == {"train", "val"}
    with pytest.raises(DataError, match="has the split 'imagenet' in line 2"):
        read_dataset(tmp_path / "list.csv", options=SourceOptions(split_column="dataset"))


def test_missing_files_and_repeated_lines_are_skipped_and_named(tmp_path: Path) -> None:
    """The other images are used; an image that is listed twice is used once; the reason says what a path is."""
    data = write_images(tmp_path / "data", 4)
    lines = ["path,label", *(line.removesuffix(",") for line in _rows(data))]
    lines += ["data/red/none.jpg,red", "data/red,red", "data/./red/000.jpg,red"]
    dataset = read_dataset(_write(tmp_path / "list.csv", "\n".join(lines)))
    assert [(item.path, item.reason) for item in dataset.skipped] == [
        (data / "red" / "none.jpg", "no such file"),
        (data / "red", "a folder, not a file"),
        (data / "red" / "000.jpg", "listed more than once; it is used once"),
    ]
    assert sum(len(images) for images in dataset.splits.values()) == 12


def test_missing_files_are_all_counted_and_the_first_five_are_named(tmp_path: Path) -> None:
    """A list that lies in the wrong folder: every image is missing."""
    lines = ["path,label", *(f"{number}.jpg,{'ab'[number % 2]}" for number in range(9))]
    with pytest.raises(DataError, match=r"no usable image of a, b") as refused:
        read_dataset(_write(tmp_path / "list.csv", "\n".join(lines)))
    shown = str(refused.value).splitlines()[1:]
    assert shown == [
        "not used: 9 files",
        *(f"  {tmp_path / f'{number}.jpg'}: no such file" for number in range(5)),
        "  and 4 more",
    ]


def test_contradictions_are_listed_in_one_go_or_left_out(tmp_path: Path) -> None:
    """Seven images of two labels: all counted, five listed with their lines; an option leaves them out."""
    data = write_images(tmp_path / "data", 6)
    lines = ["path,label", *(line.removesuffix(",") for line in _rows(data))]
    lines += [f"data/red/{number:03}.jpg,blue" for number in range(4)]
    lines += [f"data/green/{number:03}.jpg,Green" for number in range(3)]
    file = _write(tmp_path / "list.csv", "\n".join(lines))
    with pytest.raises(DataError, match=r"gives 7 images more than one label or split; .*--drop-contradict") as refused:
        read_dataset(file)
    shown = str(refused.value).splitlines()[1:]
    assert len(shown) == 6
    assert shown[0] == "  data/green/000.jpg: green for train in line 8 and Green for train in line 24"
    assert shown[-1] == "  and 2 more"
    dataset = read_dataset(file, options=SourceOptions(drop_contradictions=True))
    assert dataset.labels == ("blue", "green", "red")
    assert sum(len(images) for images in dataset.splits.values()) == 11
    assert Counter(item.reason for item in dataset.skipped) == {"listed with more than one label or split": 7}
    rest = _write(tmp_path / "rest.csv", "\n".join([lines[0], *lines[1:7], lines[13], lines[19]]))
    with pytest.raises(DataError, match=r"holds 1 class of training images \(blue\)(?s:.*)000.jpg: listed with more"):
        read_dataset(rest, options=SourceOptions(drop_contradictions=True))


@needs_cases
@pytest.mark.parametrize(
    ("name", "options", "labels", "images"),
    [
        ("semicolons.csv", SourceOptions(), ("disc", "square"), 20),
        ("tabs.tsv", SourceOptions(), ("disc", "square"), 20),
        ("other-columns.csv", SourceOptions(label_column="emotion"), ("DISC", "SQUARE", "disc", "square"), 20),
        ("contradictions.csv", SourceOptions(drop_contradictions=True), ("disc", "square"), None),
    ],
)
def test_reads_the_collected_lists(
    name: str, options: SourceOptions, labels: tuple[str, ...], images: int | None
) -> None:
    """Lists that other tools failed on; the names of columns and the choice of labels come from options."""
    dataset = read_dataset(CASES / name, options=options)
    assert dataset.labels == labels
    used = sum(len(own) for own in dataset.splits.values())
    listed = len((CASES / name).read_text().splitlines()) - 1
    assert used == images or images is None
    assert used + len(dataset.skipped) <= listed
    if name == "contradictions.csv":
        with pytest.raises(DataError, match=r"gives \d+ images? more than one label or split"):
            read_dataset(CASES / name)


def test_quoted_fields_are_read_as_csv_writers_write_them(tmp_path: Path) -> None:
    """Names with commas, quotes and line breaks are read unchanged."""
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
    """By the folder of the list, by the list itself if it has moved, and by absolute paths."""
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
