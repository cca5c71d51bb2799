"""Images of more than 8 bits: the range of values that is found, said, and used from training to serving."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.deep_images import in_8_bits, in_12_of_16_bits, write_deep_images
from support.images import write_images
from support.servers import server_thread

from unfreeze import Client, LocalClassifier, export_model, fine_tune
from unfreeze.contract.errors import OptionsError
from unfreeze.contract.reporting import Silent
from unfreeze.tune.artifacts.checkpoint import load_run
from unfreeze.tune.data.dataset import read_dataset
from unfreeze.tune.data.inspection.inspection import Inspection, inspect_dataset
from unfreeze.tune.options import TuneOptions

CASES = Path(__file__).parents[5] / "shared" / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="needs the failing inputs in ../shared/cases")
OPTIONS = TuneOptions(weights="builtin", recipe="probe", device="cpu")

pytestmark = pytest.mark.xdist_group("deep_range")


def _inspect(folder: Path, deep_range: str = "auto") -> Inspection:
    return inspect_dataset(read_dataset(folder), 2, Silent(), deep_range)


@pytest.mark.parametrize(
    ("pixels", "suffix", "chosen"),
    [
        (in_12_of_16_bits, "png", (0, 4095)),
        (in_12_of_16_bits, "tiff", (0, 4095)),
        (lambda values: np.rint(values * 1000).astype(np.uint16), "png", (0, 1023)),
        (lambda values: np.rint(values * 65535).astype(np.uint16), "png", None),
        (lambda values: np.zeros(values.shape, np.uint16), "png", None),
        (lambda values: np.rint(values * 2**20).clip(0, 2**20 - 1).astype(np.int32), "tiff", (0, 2**20 - 1)),
        (lambda values: np.rint(values * 4000 - 1000).astype(np.int32), "tiff", (-1000, 3000)),
        (lambda values: (values * 0.98).astype(np.float32), "tiff", (0, 0.98)),
        (lambda values: (values * 70 + 3).astype(np.float32), "tiff", (3, 73)),
        (in_8_bits, "png", None),
    ],
)
def test_the_range_is_found_over_the_training_images(
    pixels: Callable[[np.ndarray], np.ndarray], suffix: str, chosen: tuple[float, float] | None, tmp_path: Path
) -> None:
    """The bits that integers use; the lowest to the highest value of signed integers and of floating point."""
    write_deep_images(tmp_path, pixels, suffix)
    Image.fromarray(pixels(np.full((8, 8), 1.0)) + pixels(np.full((8, 8), 1.0))).save(
        tmp_path / "val" / "vertical" / f"brighter.{suffix}"
    )
    inspection = _inspect(tmp_path)
    assert inspection.undecodable == ()
    assert inspection.deep_range == chosen
    if pixels is in_8_bits:
        assert inspection.notes == ()
    elif chosen is not None:
        (note,) = inspection.notes
        assert note == (
            f"24 training images have more than 8 bits: values from {chosen[0]:.15g} to {chosen[1]:.15g} are mapped to "
            "0..255 (--deep-range)"
        )


def test_images_that_use_a_small_part_of_their_range_are_named(tmp_path: Path) -> None:
    """As handled where the range fits them, and as a problem where the requested one does not."""
    write_deep_images(tmp_path, in_12_of_16_bits)
    (handled,) = _inspect(tmp_path).findings
    assert (handled.kind, handled.count, handled.handled) == ("deep-range", 40, True)
    assert handled.text == (
        "40 16-bit images use at most 12 bits; values from 0 to 4095 are mapped to 0..255; to set another range, give "
        "--deep-range LOW,HIGH"
    )
    assert handled.paths[0] == "train/horizontal/00.png"
    full = _inspect(tmp_path, "full")
    (problem,) = full.findings
    assert (full.deep_range, problem.kind, problem.count, problem.handled) == (None, "deep-contrast", 40, False)
    assert "40 images of more than 8 bits use less than a fifteenth of the values from 0 to 65535" in problem.text
    given = _inspect(tmp_path, "100,3000")
    assert (given.deep_range, [finding.kind for finding in given.findings]) == ((100, 3000), ["deep-range"])


def test_one_dark_image_among_others_is_named(tmp_path: Path) -> None:
    """It uses 8 of 16 bits while the others use all."""
    write_deep_images(tmp_path, lambda values: np.rint(values * 65535).astype(np.uint16))
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16)).save(tmp_path / "train" / "vertical" / "dark.png")
    inspection = _inspect(tmp_path)
    (problem,) = inspection.findings
    assert (inspection.deep_range, problem.kind, problem.paths) == (None, "deep-contrast", ("train/vertical/dark.png",))


def test_floating_point_images_need_a_range(tmp_path: Path) -> None:
    """With the full range of 16 bits they cannot be decoded, and the reason says what to do."""
    write_deep_images(tmp_path, lambda values: values.astype(np.float32), "tiff")
    inspection = _inspect(tmp_path, "full")
    assert len(inspection.undecodable) == 40
    assert "tune with --deep-range LOW,HIGH" in inspection.undecodable[0].reason


def test_copies_of_deep_images_are_found(tmp_path: Path) -> None:
    """Their thumbnails are not black: a copy in 8 bits of an image in 12 bits is a near copy."""
    write_deep_images(tmp_path, in_12_of_16_bits)
    with Image.open(tmp_path / "train" / "vertical" / "03.png") as image:
        pixels = np.asarray(image)
    Image.fromarray((pixels >> 4).astype(np.uint8)).save(tmp_path / "val" / "vertical" / "copy.png")
    found = {finding.kind: finding.paths for finding in _inspect(tmp_path).findings}
    assert found["near-duplicates"] == ("val/vertical/copy.png ~ train/vertical/03.png",)


@pytest.mark.parametrize("text", ["", "12", "1,2,3", "a,b", "5,5", "9,1", "0,inf", "nan,1", "Full"])
def test_malformed_ranges_are_refused(text: str) -> None:
    """Before anything is read."""
    with pytest.raises(OptionsError, match="--deep-range must be auto, full, or LOW,HIGH with LOW below HIGH, such as"):
        TuneOptions(deep_range=text)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images of 12 bits in 16."""
    folder = tmp_path_factory.mktemp("deep")
    fine_tune(write_deep_images(folder / "data", in_12_of_16_bits), folder / "run", OPTIONS)
    return folder


def _accuracy(run: Path) -> float:
    return float(json.loads((run / "metrics.json").read_text())["val_accuracy"])


def test_deep_images_are_classified_as_well_as_in_8_bits(deep: Path, tmp_path: Path) -> None:
    """The run stores the range, and its accuracy is that of the same images in 8 bits."""
    fine_tune(write_deep_images(tmp_path / "data", in_8_bits), tmp_path / "run", OPTIONS)
    assert _accuracy(tmp_path / "run") >= 0.9
    assert abs(_accuracy(deep / "run") - _accuracy(tmp_path / "run")) <= 0.05
    assert load_run(deep / "run")[1].preprocess.deep_range == (0, 4095)
    assert load_run(tmp_path / "run")[1].preprocess.deep_range is None


def test_deep_images_are_classified_alike_in_tuning_on_a_device_and_by_a_server(deep: Path) -> None:
    """The range travels with the model: in-process and server predictions have the accuracy of the run."""
    repository = deep / "models"
    exported = export_model(deep / "run", repository, "stripes")
    images = sorted((deep / "data" / "val").rglob("*.png"))
    with LocalClassifier(exported.path) as classifier:
        assert classifier.manifest.preprocess.deep_range == (0, 4095)
        inside = [found[0] for found in classifier.predict(images, top_k=1)]
    with server_thread(repository, instances=1) as target, Client(target) as client:
        served = [answer.predictions[0] for answer in client.classify(images, top_k=1)]
    assert [one.label for one in served] == [one.label for one in inside]
    assert [one.score for one in served] == pytest.approx([one.score for one in inside], abs=1e-4)
    correct = [one.label == path.parent.name for one, path in zip(inside, images, strict=True)]
    assert np.mean(correct) == pytest.approx(_accuracy(deep / "run"))


@needs_cases
def test_the_collected_case_is_classified_as_well_as_in_8_bits(tmp_path: Path) -> None:
    """Microscope-like images of 12 bits in 16."""
    case = CASES / "12-bits-in-16"
    for file in case.rglob("*.png"):
        target = tmp_path / "data" / file.relative_to(case)
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            Image.fromarray((np.asarray(image) >> 4).clip(0, 255).astype(np.uint8)).save(target)
    fine_tune(case, tmp_path / "deep", OPTIONS)
    fine_tune(tmp_path / "data", tmp_path / "run", OPTIONS)
    assert abs(_accuracy(tmp_path / "deep") - _accuracy(tmp_path / "run")) <= 0.05
    assert load_run(tmp_path / "deep")[1].preprocess.deep_range == (0, 4095)


def test_ordinary_images_are_not_mentioned(tmp_path: Path) -> None:
    """Images of 8 bits have no range, no note and no finding, whatever the option."""
    write_images(tmp_path / "train", 3)
    write_images(tmp_path / "val", 1, first_seed=900)
    for deep_range in ("auto", "full", "0,4095"):
        inspection = _inspect(tmp_path, deep_range)
        assert (inspection.notes, inspection.findings) == ((), ())
