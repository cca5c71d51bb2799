"""Handwritten digits: the 1,797 images of the UCI test set that ship with scikit-learn (`load_digits`)."""

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from unfreeze.contract.arrays import UInt8
from unfreeze.contract.reporting import Reporter
from unfreeze.demo.dataset import DemoDataset, write_folder
from unfreeze.demo.options import DemoOptions
from unfreeze.tune.backbones.weights import BUILTIN_BACKBONE
from unfreeze.tune.options import TuneOptions

_SIDE_PX = 64  # the originals have 8 x 8 pixels
_BRIGHTEST = 16
_EVERY_NTH_VALIDATES = 5
_EPOCHS = 5


def write_digits(out: Path, options: DemoOptions, reporter: Reporter) -> None:
    """Write the digits as grayscale PNG files; every fifth image of a digit is for validation.

    Args:
        out: Folder for `train/7/0123.png` and so on; the number is the position in `load_digits`.
        options: Limits on the number of images per digit.
        reporter: Shows progress.

    Raises:
        DataError: `out` exists and was not written by the demo.
    """
    limits = {"train": options.train_per_class, "val": options.val_per_class}
    write_folder(out, {"dataset": "digits", **limits}, partial(_write_files, limits=limits, reporter=reporter))


def _write_files(folder: Path, limits: dict[str, int | None], reporter: Reporter) -> None:
    digits = load_digits()
    files = [
        (folder / split / str(label) / f"{number:04}.png", digits.images[number])
        for label in digits.target_names.tolist()
        for split, numbers in _split(np.flatnonzero(digits.target == label).tolist()).items()
        for number in numbers[: limits[split]]
    ]
    advance = reporter.track("writing the images", len(files))
    for path, pixels in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_to_bytes(pixels)).resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC).save(path)
        advance(1)


def _split(numbers: list[int]) -> dict[str, list[int]]:
    val = numbers[::_EVERY_NTH_VALIDATES]
    return {"train": sorted(set(numbers) - set(val)), "val": val}


def _to_bytes(pixels: np.ndarray) -> UInt8[np.ndarray, "8 8"]:
    return np.rint(pixels * (255 / _BRIGHTEST)).astype(np.uint8)


def _tune_options(options: DemoOptions) -> TuneOptions:
    """Train the last third of the blocks: enough to adapt weights that were pretrained on drawings, and quick."""
    return TuneOptions(
        backbone=BUILTIN_BACKBONE,
        weights="builtin",
        recipe="last-blocks",
        cut="features.9",
        learning_rate=3e-3,
        epochs=options.epochs or _EPOCHS,
        seed=options.seed,
    )


DIGITS = DemoDataset(name="digits", write=write_digits, tune_options=_tune_options)
