"""Images without labels: copies of the dataset's images and what cannot be decoded are left out."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unfreeze.contract.errors import DataError
from unfreeze.contract.reporting import Silent
from unfreeze.tune.data.dataset import read_dataset
from unfreeze.tune.data.images import UNLABELED
from unfreeze.tune.data.inspection.inspection import Inspection, inspect_dataset


def _scene(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse, fine = (Image.fromarray(rng.integers(0, 256, (*grid, 3), np.uint8)) for grid in ((5, 6), (20, 26)))
    return Image.blend(*(grid.resize((240, 180), Image.Resampling.BICUBIC) for grid in (coarse, fine)), 0.3)


def _encoded(image: Image.Image, quality: int = 95) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve scenes: five training, five validation and two test images of two classes."""
    for split, seeds in (("train", range(5)), ("val", range(5, 10)), ("test", range(10, 12))):
        for seed in seeds:
            path = tmp_path / "data" / split / "ab"[seed % 2] / f"{seed}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_encoded(_scene(seed)))
    return tmp_path / "data"


def _inspect(data: Path, unlabeled: Path) -> Inspection:
    return inspect_dataset(read_dataset(data), 2, Silent(), unlabeled=unlabeled)


def _write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_copies_of_any_split_are_left_out(data: Path, tmp_path: Path) -> None:
    """The same bytes under other names, the same picture saved again, and the second of two equal images."""
    others = _write(
        tmp_path / "more",
        {
            "deep/down/new.jpg": _encoded(_scene(50)),
            "again.jpg": _encoded(_scene(50)),
            "of-train.jpg": _encoded(_scene(0)),
            "of-val.jpg": _encoded(_scene(7)),
            "of-test.jpg": _encoded(_scene(11)),
            "val-saved-again.jpg": _encoded(_scene(6).resize((200, 150)), quality=70),
            "other.jpg": _encoded(_scene(51)),
        },
    )
    inspection = _inspect(data, others)
    assert [image.path.name for image in inspection.unlabeled] == ["again.jpg", "other.jpg"]
    assert {image.label for image in inspection.unlabeled} == {UNLABELED}
    (found,) = [one for one in inspection.findings if one.kind == "unlabeled-copies"]
    assert (found.count, found.handled) == (5, True)
    assert {"of-val.jpg = 7.jpg", "val-saved-again.jpg = 6.jpg", "deep/down/new.jpg = again.jpg"} <= set(found.paths)
    assert inspection.digests.keys() >= {image.path for image in inspection.unlabeled}


def test_what_cannot_be_decoded_is_reported(data: Path, tmp_path: Path) -> None:
    """Broken images and other files are not used, with the reason; nothing else changes in the inspection."""
    files = {"new.jpg": _encoded(_scene(50)), "broken.jpg": _encoded(_scene(52))[:900], "notes.txt": b"x"}
    inspection, plain = (
        _inspect(data, _write(tmp_path / "more", files)),
        inspect_dataset(read_dataset(data), 2, Silent()),
    )
    assert [image.path.name for image in inspection.unlabeled] == ["new.jpg"]
    (found,) = inspection.findings
    assert (found.kind, found.count, found.handled) == ("unlabeled-undecodable", 2, True)
    assert any(path.startswith("broken.jpg (") for path in found.paths)
    assert any(path.startswith("notes.txt (not an image") for path in found.paths)
    assert inspection.contents.pop("unlabeled").startswith("1 images, ")
    assert inspection.contents == plain.contents


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, r"--unlabeled .*more is not a folder \(no such file\); give a folder of images"),
        (
            {"of-val.jpg": _encoded(_scene(7)), "b.jpg": b"x"},
            r"no image that can be used: 1 copy of images of the dataset, 1",
        ),
    ],
)
def test_a_folder_without_usable_images_is_an_error(
    files: dict[str, bytes] | None, message: str, data: Path, tmp_path: Path
) -> None:
    """The message says what was found there."""
    folder = tmp_path / "more"
    if files is not None:
        _write(folder, files)
    with pytest.raises(DataError, match=message):
        _inspect(data, folder)
