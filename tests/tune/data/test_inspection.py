"""What is wrong with images as people have them, and what only looks so."""

import os
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
from unfreeze.tune.data.inspection import Finding, inspect_dataset


class Counts:
    """A reporter that counts the steps of each piece of work."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self.done: dict[str, int] = {}

    def info(self, text: str) -> None:
        """Say nothing."""

    def track(self, what: str, total: int) -> Callable[[int], None]:
        """Begin to count."""
        self.totals[what], self.done[what] = total, 0

        def advance(steps: int) -> None:
            self.done[what] += steps

        return advance


def _scene(seed: int, size: tuple[int, int] = (240, 180)) -> Image.Image:
    """Draw soft shapes with some detail, as photographs have them."""
    rng = np.random.default_rng(seed)
    coarse, fine = (Image.fromarray(rng.integers(0, 256, (*grid, 3), np.uint8)) for grid in ((5, 6), (20, 26)))
    return Image.blend(*(grid.resize(size, Image.Resampling.BICUBIC) for grid in (coarse, fine)), 0.3)


def _write_splits(root: Path, train: list[bytes], val: list[bytes]) -> Dataset:
    """Write two classes, by turns; Pillow knows the formats by their content."""
    for split, files in (("train", train), ("val", val)):
        for number, data in enumerate(files):
            path = root / split / "ab"[number % 2] / f"{number:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return read_dataset(root)


def _find(dataset: Dataset, folds: int = 2) -> dict[str, Finding]:
    return {finding.kind: finding for finding in inspect_dataset(dataset, folds, Silent()).findings}


def test_a_data_set_without_problems_has_no_findings_and_is_read_once(tmp_path: Path) -> None:
    """Nothing is found, every image of every split counts one step."""
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
    monkeypatch.setattr("unfreeze.tune.data.duplicates._BLOCK", pairs_at_once)
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
        "5 images are nearly one of an earlier split: what is measured on them is too good; keep one of each pair"
    )


def test_digits_that_look_alike_are_no_copies(tmp_path: Path) -> None:
    """Handwriting of a few pixels, many of one shape: none is reported, and a copy among them is."""
    digits = [Image.fromarray((digit * 15.9).astype(np.uint8)).resize((64, 64)) for digit in load_digits().images[:900]]
    train, val = ([encode(digit, "PNG") for digit in part] for part in (digits[:700], digits[700:]))
    copy = encode(digits[5].resize((32, 32)), quality=60)
    (found,) = _find(_write_splits(tmp_path, train, [*val, copy])).values()
    assert (found.kind, found.paths) == ("near-duplicates", ("val/a/200.jpg ~ train/b/005.jpg",))


def test_parts_before_one_camera_are_no_copies(tmp_path: Path) -> None:
    """What all images share tells none of them apart: a mark on one background, here or there."""
    scene = np.where(np.asarray(_scene(0)) > 128, 255.0, 0.0)

    def seen(number: int) -> bytes:
        pixels = scene + np.random.default_rng(number).normal(0, 2, scene.shape)
        row, column = divmod(number, 10)
        pixels[20 * row : 20 * row + 9, 24 * column : 24 * column + 9] = 128
        return encode(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), quality=90)

    assert _find(_write_splits(tmp_path, list(map(seen, range(80))), list(map(seen, range(80, 90))))) == {}


def test_blank_and_flat_images_are_no_copies(tmp_path: Path) -> None:
    """Pages with nothing on them but a scanner's shading, colors and noise, beside photographs."""
    shading = np.linspace(240, 245, 90)[:, None, None] + np.zeros((60, 3))
    plain = [encode(Image.fromarray(shading.astype(np.uint8)), quality=70 + seed) for seed in range(10)]
    plain += [encode(draw_image((240, 240, 235), seed), quality=50 + seed) for seed in range(10)]
    plain += [encode(Image.new("RGB", (90 + seed, 60), (250, 250, 250 - seed)), quality=90) for seed in range(10)]
    scenes = [encode(_scene(seed)) for seed in range(10)]
    assert _find(_write_splits(tmp_path, plain[::2] + scenes, plain[1::2])) == {}


def test_one_shape_in_two_colors_is_not_one_image(tmp_path: Path) -> None:
    """Red and blue of one lightness differ, though their gray prints do not."""

    def shape(color: tuple[int, int, int], seed: int) -> bytes:
        mask = np.asarray(_scene(seed).convert("L"))[..., None] > 128
        return encode(Image.fromarray(np.where(mask, color, 255).astype(np.uint8)), "PNG")

    red, blue = (200, 30, 30), (30, 50, 255)
    assert _find(_write_splits(tmp_path, [shape(red, seed) for seed in range(12)], [shape(blue, 3)])) == {}
    found = _find(_write_splits(tmp_path / "red", [shape(red, seed) for seed in range(12)], [shape((210, 30, 30), 3)]))
    assert found["near-duplicates"].paths == ("val/a/000.jpg ~ train/b/003.jpg",)


def test_the_same_bytes_in_two_splits_or_under_two_labels_are_named_in_pairs(tmp_path: Path) -> None:
    """A leak, a contradiction, or both; within one split and class a repeat harms nobody; none is a near copy too."""
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
    assert "3 images lie in an earlier split too, byte for byte" in found["duplicates"].text


def test_test_images_are_held_against_training_and_validation(tmp_path: Path) -> None:
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
    """Truncated, empty and unreadable ones; the caller takes them out, and the counts of the classes do without."""
    scenes = [encode(_scene(seed)) for seed in range(8)]
    dataset = _write_splits(tmp_path, [*scenes[:5], scenes[5][:900], b""], scenes[6:])
    (tmp_path / "val" / "a" / "000.jpg").unlink()
    inspection = inspect_dataset(dataset, 3, Silent())
    found = {finding.kind: finding for finding in inspection.findings}
    assert found["undecodable"].paths == ("train/a/006.jpg", "train/b/005.jpg", "val/a/000.jpg")
    assert found["undecodable"].text.startswith("3 files do not decode and are left out; replace or remove them (1 x ")
    assert [item.path.name for item in inspection.undecodable] == ["006.jpg", "005.jpg", "000.jpg"]
    assert "it has no bytes" in inspection.undecodable[0].reason
    assert "truncated" in inspection.undecodable[1].reason
    assert found["few-images"].paths == ("b",)


def test_a_data_set_of_which_nothing_decodes_is_inspected_too(tmp_path: Path) -> None:
    """It is the caller who refuses it."""
    inspection = inspect_dataset(_write_splits(tmp_path, [b"x"] * 30, [b"x"] * 2), 1, Silent())
    (found,) = [finding for finding in inspection.findings if finding.kind == "undecodable"]
    assert (found.count, len(found.paths), len(inspection.undecodable)) == (32, 20, 32)


def test_skipped_files_are_told_with_their_reasons_and_bad_names_apart(tmp_path: Path) -> None:
    """Reasons with their numbers; names as bytes that any terminal can show."""
    data = write_images(tmp_path / "data", 5)
    for name in ("a.txt", "b.txt", "Thumbs.db"):
        (data / "red" / name).write_bytes(b"x")
    (data / "red" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    found = _find(read_dataset(data))
    assert found["names"].paths == ("red/caf\\xe9.jpg",)
    assert "1 files have names that are not UTF-8 and are left out; rename them" in found["names"].text
    assert (found["skipped"].count, found["skipped"].paths) == (3, ("red/Thumbs.db", "red/a.txt", "red/b.txt"))
    assert "(2 x .txt is no image's suffix; 1 x .db is no image's suffix)" in found["skipped"].text


def test_classes_with_fewer_training_images_than_folds_are_named(tmp_path: Path) -> None:
    """With as many as there are folds a class is whole."""
    data = write_images(tmp_path / "train", 5)
    write_images(tmp_path / "val", 1, first_seed=500)
    (data / "red" / "004.jpg").unlink()
    dataset = read_dataset(tmp_path)
    assert "few-images" not in _find(dataset, folds=4)
    assert _find(dataset, folds=5)["few-images"] == Finding(
        kind="few-images",
        text="1 classes have fewer than 5 training images, one for each fold of the cross-validation: red 4; add "
        "images, or join classes",
        count=1,
        paths=("red",),
    )


def test_labels_that_differ_in_spelling_only_are_put_side_by_side(tmp_path: Path) -> None:
    """Case, blanks at the ends, composed and decomposed accents; different words stay apart."""
    labels = ["Ant", "ant", "ant ", "bee", unicodedata.normalize("NFC", "guêpe"), unicodedata.normalize("NFD", "guêpe")]
    for number, label in enumerate(labels):
        for copy in range(3):
            path = tmp_path / label / f"{copy}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encode(draw_image(COLORS["red"], 10 * number + copy), "PNG"))
    found = _find(read_dataset(tmp_path))["case"]
    assert found.paths == ("Ant = ant = ant ", " = ".join(sorted(labels[4:])))
    assert found.text.startswith("2 classes are written in more than one way")
    assert "'Ant' = 'ant' = 'ant '" in found.text
