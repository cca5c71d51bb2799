"""Draw a data set of the 17 wallpaper groups to disk: a folder per class in `train` and in `val`."""

import multiprocessing
import signal
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from unfreeze.contract.cores import usable_cores
from unfreeze.contract.reporting import Reporter, Silent
from unfreeze.demo.dataset import DemoDataset, write_folder
from unfreeze.demo.options import DemoOptions
from unfreeze.demo.wallpaper.groups import GROUPS
from unfreeze.demo.wallpaper.rendering import draw
from unfreeze.tune.options import TuneOptions

_JPEG_QUALITY = 90
_EVERY_NTH_IS_PNG = 5
_TRAIN_PER_CLASS, _VAL_PER_CLASS, _SIDE_PX, _EPOCHS = 200, 20, 160, 12
_LEARNING_RATE = 4e-3
_CROP_PCT = 0.7  # 2 to 3.5 periods of a pattern: enough to recognize its group, with half of the computation


@dataclass(frozen=True, kw_only=True)
class WallpaperSet:
    """Number and size of the images.

    Args:
        train_per_class: Training images per group.
        val_per_class: Validation images per group.
        size: Side of an image in pixels.
        seed: Random seed. Each image is seeded by this number and its name, so it does not depend on the counts.
    """

    train_per_class: int = 60
    val_per_class: int = 20
    size: int = 192
    seed: int = 0


def write_wallpaper_groups(out: Path, images: WallpaperSet, reporter: Reporter | None = None) -> None:
    """Draw a data set of the 17 wallpaper groups: OUT/train/p4m/0001.jpg and so on; every fifth image is a PNG.

    The folder is written atomically. A folder that holds the same images already is left unchanged.

    Args:
        out: The folder.
        images: Number and size of the images.
        reporter: Shows progress.

    Raises:
        DataError: `out` exists and was not written by the demo.
    """
    description = {"dataset": "wallpaper", **asdict(images)}
    write_folder(out, description, partial(_draw_all, images=images, reporter=reporter or Silent()))


def _draw_all(folder: Path, images: WallpaperSet, reporter: Reporter) -> None:
    counts = {"train": images.train_per_class, "val": images.val_per_class}
    advance = reporter.track("drawing the 17 wallpaper groups", len(GROUPS) * sum(counts.values()))
    # Spawned, not forked: torch's threads may be running in this process.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(usable_cores(), context, _ignore_interrupts) as pool:
        jobs = [
            pool.submit(_draw_some, folder / split / group, count, images)
            for group in GROUPS
            for split, count in counts.items()
        ]
        try:
            for job in jobs:
                advance(job.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _ignore_interrupts() -> None:
    """Leave Ctrl-C, which a terminal sends to every process, to the parent process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _draw_some(folder: Path, count: int, images: WallpaperSet) -> int:
    folder.mkdir(parents=True)
    split, group = folder.parts[-2:]
    for number in range(1, count + 1):
        name = f"{split}/{group}/{number:04}"
        rng = np.random.default_rng([images.seed, zlib.crc32(name.encode())])
        image = Image.fromarray(draw(group, rng, images.size))
        if number % _EVERY_NTH_IS_PNG == 0:
            image.save(folder / f"{number:04}.png")
        else:
            image.save(folder / f"{number:04}.jpg", quality=_JPEG_QUALITY)
    return count


def wallpaper_set(options: DemoOptions) -> WallpaperSet:
    """Choose the images for the demo."""
    return WallpaperSet(
        train_per_class=options.train_per_class or _TRAIN_PER_CLASS,
        val_per_class=options.val_per_class or _VAL_PER_CLASS,
        size=_SIDE_PX,
        seed=options.seed,
    )


def wallpaper_tune_options(options: DemoOptions, weights: str = "builtin") -> TuneOptions:
    """Choose the options for tuning: all blocks, without trials.

    Flips and quarter turns do not change the group of a pattern, so images are flipped and rotated at random.

    Args:
        options: Options of the demo.
        weights: Initial weights.
    """
    # Imports torch, which the processes that draw do not need.
    from unfreeze.tune.backbones.weights import BUILTIN_BACKBONE

    return TuneOptions(
        backbone=BUILTIN_BACKBONE,
        weights=weights,
        recipe="all",
        learning_rate=_LEARNING_RATE,
        image_size=round(_CROP_PCT * _SIDE_PX),
        crop_pct=_CROP_PCT,
        flip="yes",
        quarter_turns=True,
        epochs=options.epochs or _EPOCHS,
        seed=options.seed,
    )


def _write(out: Path, options: DemoOptions, reporter: Reporter) -> None:
    write_wallpaper_groups(out, wallpaper_set(options), reporter)


WALLPAPER = DemoDataset(name="wallpaper", write=_write, tune_options=wallpaper_tune_options)
