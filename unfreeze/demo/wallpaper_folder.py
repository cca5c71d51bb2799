"""Write the images to disk, as anybody's images would lie there: a folder per class in train and val."""

import json
import multiprocessing
import shutil
import tempfile
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unfreeze.contract.cores import usable_cores
from unfreeze.contract.errors import DataError
from unfreeze.contract.reporting import Reporter, Silent
from unfreeze.demo.wallpaper import draw
from unfreeze.demo.wallpaper_groups import GROUPS

_MARKER = ".wallpaper.json"
_JPEG_QUALITY = 90
_EVERY_NTH_IS_PNG = 5


@dataclass(frozen=True, kw_only=True)
class WallpaperSet:
    """Which images to draw.

    Args:
        train_per_class: training images of each group.
        val_per_class: validation images of each.
        size: side of an image in pixels.
        seed: each image has its own, made of this and its name: other counts do not change it.
    """

    train_per_class: int = 60
    val_per_class: int = 20
    size: int = 192
    seed: int = 0


def write_wallpaper_groups(out: Path, images: WallpaperSet, reporter: Reporter | None = None) -> None:
    """Draw a data set of the 17 wallpaper groups: OUT/train/p4m/0001.jpg and so on; every fifth is a PNG.

    The folder appears whole or not at all. One that holds the same images already is left as it is.

    Args:
        out: the folder.
        images: which.
        reporter: shows progress.

    Raises:
        DataError: `out` exists and is not one of these folders.
    """
    if _holds(out, images):
        return
    if out.exists() and not (out / _MARKER).is_file():
        raise DataError(f"{out} exists and was not drawn by this program: choose another folder, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _draw_all(staging, images, reporter or Silent())
        (staging / _MARKER).write_text(json.dumps(asdict(images)))
        staging.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _holds(out: Path, images: WallpaperSet) -> bool:
    try:
        return bool(json.loads((out / _MARKER).read_text()) == asdict(images))
    except (OSError, ValueError):
        return False


def _draw_all(folder: Path, images: WallpaperSet, reporter: Reporter) -> None:
    counts = {"train": images.train_per_class, "val": images.val_per_class}
    advance = reporter.track("drawing the 17 wallpaper groups", len(GROUPS) * sum(counts.values()))
    # Spawned, and not forked: torch's threads may be running in this process.
    with ProcessPoolExecutor(usable_cores(), multiprocessing.get_context("spawn")) as pool:
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
