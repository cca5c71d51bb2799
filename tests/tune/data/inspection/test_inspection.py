"""Problems of data sets that an inspection reports, and what only looks like one."""

import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_digits
from support.images import COLORS, draw_image, encode, write_images

from unfreeze.contract.reporting import Silent
from unfreeze.tune.data.dataset import Dataset, read_dataset
from unfreeze.tune.data.inspection.inspection import Finding, inspect_dataset

CASES = Path(__file__).parents[5] / "shared" / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="needs the failing inputs in ../shared/cases")


class Counts:
    """A reporter that counts the steps of each piece of work."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self.done: dict[str, int] = {}

    def info(self, text: str) -> None:
        """Ignore messages."""

    def track(self, what: str, total: int) -> Callable[[int], None]:
        """Begin to count."""
        self.totals[what], self.done[what] = total, 0

        def advance(steps: int) -> None:
            self.done[what] += steps

        return advance


def _scene(seed: int, size: tuple[int, int] = (240, 180)) -> Image.Image:
    """Draw soft shapes with some detail, like a photograph."""
    rng = np.random.default_rng(seed)
    coarse, fine = (Image.fromarray(rng.integers(0, 256, (*grid, 3), np.uint8)) for grid in ((5, 6), (20, 26)))
    return Image.blend(*(grid.resize(size, Image.Resampling.BICUBIC) for grid in (coarse, fine)), 0.3)


def _write_splits(root: Path, train: list[bytes], val: list[bytes]) -> Dataset:
    """Write two classes by turns; formats are recognized by content, whatever the suffix."""
    for split, files in (("train", train), ("val", val)):
        for number, data in enumerate(files):
            path = root / split / "ab"[number % 2] / f"{number:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return read_dataset(root)


def _find(dataset: Dataset, folds: int = 2) -> dict[str, Finding]:
    return {finding.kind: finding for finding in inspect_dataset(dataset, folds, Silent()).findings}


def test_a_data_set_without_problems_has_no_findings(tmp_path: Path) -> None:
    """Nothing is found, and every image of every split counts as one step of progress."""
    scenes = [encode(_scene(seed)) for seed in range(12)]
    counts = Counts()
    inspection = inspect_dataset(_write_splits(tmp_path, scenes[:8], scenes[8:]), 3, counts)
    assert (inspection.findings, inspection.undecodable) == ((), ())
    assert counts.totals == counts.done == {"inspecting the images": 12, "comparing the splits": 4}


@pytest.mark.parametrize("pairs_at_once", [1, 50, 2**24])
def test_copies_in_another_size_quality_or_brightness_are_found(
    pairs_at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each copy is named with its original and no other image is, in however small blocks they are compared."""
    monkeypatch.setattr("unfreeze.tune.data.inspection.duplicates._BLOCK", pairs_at_once)
    scenes = [_scene(seed) for seed in range(20)]
    copies = [
        encode(scenes[0], quality=60),
        encode(scenes[1].resize((120, 90)), quality=85),
        encode(ImageEnhance.Brightness(scenes[2]).enhance(1.1)),
        encode(scenes[3].crop((2, 2, 238, 178))),
        encode(scenes[4].resize((150, 150)), "PNG"),
        *(encode(_scene(seed)) for seed in range(100, 106)),
    ]
    found = _find(_write_splits(tmp_path, [encode(scene, quality=92) for scene in scenes], copies))
    assert set(found) == {"near-duplicates"}
    assert sorted(found["near-duplicates"].paths) == sorted(
        f"val/{'ab'[number % 2]}/{number:03}.jpg ~ train/{'ab'[number % 2]}/{number:03}.jpg" for number in range(5)
    )
    assert found["near-duplicates"].text == (
        "5 images nearly equal one of an earlier split, so that the accuracy measured on them is too high; keep one of "
        "each pair"
    )


def test_digits_that_look_alike_are_not_copies(tmp_path: Path) -> None:
    """Handwriting of a few pixels, many of one shape: none is reported, and a copy with another label is."""
    digits = [Image.fromarray((digit * 15.9).astype(np.uint8)).resize((64, 64)) for digit in load_digits().images[:900]]
    train, val = ([encode(digit, "PNG") for digit in part] for part in (digits[:700], digits[700:]))
    copy = encode(digits[5].resize((32, 32)), quality=60)
    found = _find(_write_splits(tmp_path, train, [*val, copy]))
    assert {kind: one.paths for kind, one in found.items()} == {
        "near-duplicates": ("val/a/200.jpg ~ train/b/005.jpg",),
        "near-duplicates-labels": ("val/a/200.jpg ~ train/b/005.jpg",),
    }


def test_parts_before_one_background_are_not_copies(tmp_path: Path) -> None:
    """What all images share does not count: one background with a mark at different places."""
    scene = np.where(np.asarray(_scene(0)) > 128, 255.0, 0.0)

    def seen(number: int) -> bytes:
        pixels = scene + np.random.default_rng(number).normal(0, 2, scene.shape)
        row, column = divmod(number, 10)
        pixels[20 * row : 20 * row + 9, 24 * column : 24 * column + 9] = 128
        return encode(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), quality=90)

    assert _find(_write_splits(tmp_path, list(map(seen, range(80))), list(map(seen, range(80, 90))))) == {}


def test_blank_and_flat_images_are_not_copies(tmp_path: Path) -> None:
    """Empty pages with a scanner's shading, colors and noise, beside photographs."""
    shading = np.linspace(240, 245, 90)[:, None, None] + np.zeros((60, 3))
    plain = [encode(Image.fromarray(shading.astype(np.uint8)), quality=70 + seed) for seed in range(10)]
    plain += [encode(draw_image((240, 240, 235), seed), quality=50 + seed) for seed in range(10)]
    plain += [encode(Image.new("RGB", (90 + seed, 60), (250, 250, 250 - seed)), quality=90) for seed in range(10)]
    scenes = [encode(_scene(seed)) for seed in range(10)]
    assert _find(_write_splits(tmp_path, plain[::2] + scenes, plain[1::2])) == {}


def test_one_shape_in_two_colors_is_not_one_image(tmp_path: Path) -> None:
    """Red and blue of one lightness differ, though their gray thumbnails do not."""

    def shape(color: tuple[int, int, int], seed: int) -> bytes:
        mask = np.asarray(_scene(seed).convert("L"))[..., None] > 128
        return encode(Image.fromarray(np.where(mask, color, 255).astype(np.uint8)), "PNG")

    red, blue = (200, 30, 30), (30, 50, 255)
    train = [shape(red, seed) for seed in range(12)]
    assert _find(_write_splits(tmp_path, train, [shape(blue, 3), shape(blue, 4)])) == {}
    found = _find(_write_splits(tmp_path / "red", train, [shape((210, 30, 30), 3)]))
    assert found["near-duplicates"].paths == ("val/a/000.jpg ~ train/b/003.jpg",)


def test_the_same_bytes_in_two_splits_or_under_two_labels_are_named_in_pairs(tmp_path: Path) -> None:
    """A leak, a contradiction, or both. Repeats in one split and class are harmless; none is a near copy as well."""
    scenes = [encode(_scene(seed)) for seed in range(12)]
    train = [*scenes[:8], scenes[0], scenes[1]]  # 008 repeats 000 in class a, 009 repeats 001 in class b
    val = [scenes[0], scenes[8], scenes[3], scenes[2]]  # in a: 000, 003; in b: 8, 002
    dataset = _write_splits(tmp_path, [*train, scenes[5]], val)  # 010 repeats 005 in the other class
    found = _find(dataset)
    assert set(found) == {"duplicates", "duplicates-labels"}
    assert found["duplicates"].paths == (
        "val/a/000.jpg = train/a/000.jpg",
        "val/a/002.jpg = train/b/003.jpg",
        "val/b/003.jpg = train/a/002.jpg",
    )
    assert found["duplicates-labels"].paths == (
        "train/b/005.jpg = train/a/010.jpg",
        "val/a/002.jpg = train/b/003.jpg",
        "val/b/003.jpg = train/a/002.jpg",
    )
    assert found["duplicates"].text.startswith("3 images are in an earlier split too, byte for byte, so that the accur")
    assert found["duplicates"].describe() == f"{found['duplicates'].text}: {', '.join(found['duplicates'].paths)}"


@pytest.mark.parametrize("pairs_at_once", [1, 50, 2**24])
def test_nearly_equal_images_with_different_labels_are_named_in_pairs(
    pairs_at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one split too, each pair once; copies with the same label are harmless there."""
    monkeypatch.setattr("unfreeze.tune.data.inspection.duplicates._BLOCK", pairs_at_once)
    scenes = [_scene(seed) for seed in range(20)]
    train = [encode(scene, quality=92) for scene in scenes]
    train += [encode(scenes[0], quality=60), encode(scenes[2].resize((120, 90))), encode(scenes[3])]  # a, b, a
    dataset = _write_splits(tmp_path, train, [encode(_scene(100)), encode(_scene(101))])
    (found,) = _find(dataset).values()
    assert found.kind == "near-duplicates-labels"
    assert set(found.paths) == {"train/b/021.jpg ~ train/a/002.jpg", "train/b/003.jpg ~ train/a/022.jpg"}
    pairs = inspect_dataset(dataset, 2, Silent()).near_contradictions
    assert {frozenset(image.path.name for image in pair) for pair in pairs} == {
        frozenset(("021.jpg", "002.jpg")),
        frozenset(("003.jpg", "022.jpg")),
    }


def test_sizes_are_measured_and_small_images_found(tmp_path: Path) -> None:
    """Icons among photographs; in a set of small images, none is unusual."""
    files = [encode(_scene(seed, (240, 180 + seed))) for seed in range(9)]
    dataset = _write_splits(tmp_path / "mixed", [*files, encode(_scene(50, (44, 60)))], [encode(_scene(51, (47, 46)))])
    inspection = inspect_dataset(dataset, 2, Silent())
    assert inspection.sizes == {"width": [44, 240, 240], "height": [46, 183, 188]}
    assert {image.path.name: size for image, size in inspection.small} == {"009.jpg": "44 x 60 pixels"}
    small = [encode(_scene(seed, (24, 20))) for seed in range(10)]
    assert inspect_dataset(_write_splits(tmp_path / "small", small, small[:1]), 2, Silent()).small == ()


def test_test_images_are_compared_with_training_and_validation(tmp_path: Path) -> None:
    """A leak from val into test counts as one from train does."""
    scenes = [encode(_scene(seed)) for seed in range(9)]
    _write_splits(tmp_path, scenes[:4], scenes[4:6])
    for label, files in (("a", scenes[4:5]), ("b", [encode(_scene(1), quality=60), scenes[8]])):
        (tmp_path / "test" / label).mkdir(parents=True)
        for number, data in enumerate(files):
            (tmp_path / "test" / label / f"{number}.jpg").write_bytes(data)
    found = _find(read_dataset(tmp_path))
    assert found["duplicates"].paths == ("test/a/0.jpg = val/a/000.jpg",)
    assert found["near-duplicates"].paths == ("test/b/0.jpg ~ train/b/001.jpg",)


def test_files_that_do_not_decode_are_returned_with_the_reason(tmp_path: Path) -> None:
    """Truncated, empty and missing ones; the counts of images per class are without them."""
    scenes = [encode(_scene(seed)) for seed in range(8)]
    dataset = _write_splits(tmp_path, [*scenes[:5], scenes[5][:900], b""], scenes[6:])
    (tmp_path / "val" / "a" / "000.jpg").unlink()
    inspection = inspect_dataset(dataset, 3, Silent())
    found = {finding.kind: finding for finding in inspection.findings}
    assert found["undecodable"].paths == ("train/a/006.jpg", "train/b/005.jpg", "val/a/000.jpg")
    assert found["undecodable"].text.startswith("3 files cannot be decoded and are not used (1 x ")
    assert found["undecodable"].text.endswith("); replace or remove such files")
    assert [item.path.name for item in inspection.undecodable] == ["006.jpg", "005.jpg", "000.jpg"]
    assert "it has no bytes" in inspection.undecodable[0].reason
    assert "truncated" in inspection.undecodable[1].reason
    assert found["few-images"].paths == ("b: 2",)


def test_a_data_set_of_which_nothing_decodes_is_inspected_too(tmp_path: Path) -> None:
    """It is left to the caller to refuse it."""
    inspection = inspect_dataset(_write_splits(tmp_path, [b"x"] * 30, [b"x"] * 2), 1, Silent())
    (found,) = [finding for finding in inspection.findings if finding.kind == "undecodable"]
    assert (found.count, len(found.paths), len(inspection.undecodable)) == (32, 32, 32)
    assert (found.excerpt()["count"], found.excerpt()["paths"]) == (32, found.paths[:20])
    assert found.describe().endswith(
        "train/a/000.jpg, train/a/002.jpg, train/a/004.jpg, train/a/006.jpg, train/a/008.jpg, and 27 more"
    )


def test_skipped_files_are_reported_with_their_reasons_and_bad_names_apart(tmp_path: Path) -> None:
    """Reasons with their counts; names that are not UTF-8 with escapes."""
    data = write_images(tmp_path / "data", 5)
    for name in ("a.txt", "b.txt", "c.db"):
        (data / "red" / name).write_bytes(b"x")
    (data / "red" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    found = _find(read_dataset(data))
    assert found["names"].paths == ("red/caf\\xe9.jpg",)
    assert found["names"].text.startswith("1 file has a name that is not UTF-8 and is not used (1 x ")
    assert (found["skipped"].count, found["skipped"].paths) == (3, ("red/a.txt", "red/b.txt", "red/c.db"))
    assert found["skipped"].text == (
        "3 files were found and are not used (2 x not an image (.txt); 1 x not an image (.db)); check whether "
        "such files are needed"
    )


def test_classes_with_fewer_training_images_than_folds_are_named(tmp_path: Path) -> None:
    """A class with as many images as folds is not reported."""
    data = write_images(tmp_path / "train", 5)
    write_images(tmp_path / "val", 1, first_seed=500)
    (data / "red" / "004.jpg").unlink()
    dataset = read_dataset(tmp_path)
    assert "few-images" not in _find(dataset, folds=4)
    assert _find(dataset, folds=5)["few-images"] == Finding(
        kind="few-images",
        text="1 class has fewer than 5 training images (one per cross-validation fold); add images, or merge classes",
        count=1,
        paths=("red: 4",),
    )


def test_labels_that_differ_in_spelling_only_are_put_side_by_side(tmp_path: Path) -> None:
    """Case, surrounding spaces, composed and decomposed accents; different words are not reported."""
    labels = ["Ant", "ant", "ant ", "bee", unicodedata.normalize("NFC", "guêpe"), unicodedata.normalize("NFD", "guêpe")]
    for number, label in enumerate(labels):
        for copy in range(3):
            path = tmp_path / label / f"{copy}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encode(draw_image(COLORS["red"], 10 * number + copy), "PNG"))
    found = _find(read_dataset(tmp_path))["case"]
    assert found.paths == ("'Ant' = 'ant' = 'ant '", "'gue\\u0302pe' = 'guêpe'")
    assert found.text.startswith("2 classes are written in more than one way")


def test_classes_without_validation_or_test_images_are_named(tmp_path: Path) -> None:
    """Each split that lacks a class is reported with the classes it lacks; a class whose images are broken counts."""
    for split, count in (("train", 5), ("val", 2), ("test", 1)):
        write_images(tmp_path / split, count, first_seed=50 * count)
    shutil.rmtree(tmp_path / "val" / "red")
    for path in (tmp_path / "val" / "blue").iterdir():
        path.write_bytes(b"x")
    (tmp_path / "test" / "green" / "000.jpg").unlink()
    found = _find(read_dataset(tmp_path))
    assert set(found) == {"undecodable", "val-classes", "test-classes"}
    assert found["val-classes"].describe() == (
        "2 classes have no validation images, so that the validation accuracy says nothing about them; add validation "
        "images: blue, red"
    )
    assert found["test-classes"].describe() == (
        "1 class has no test images, so that the test accuracy says nothing about it; add test images: green"
    )


@needs_cases
def test_reports_the_class_that_a_collected_case_lacks() -> None:
    """A val folder without one of the classes."""
    assert len(_find(read_dataset(CASES / "val-lacks-a-class"))["val-classes"].paths) == 1
