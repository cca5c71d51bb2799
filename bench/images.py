"""Data sets for benchmarks, written without a download.

python -m bench.images OUT
"""

from collections.abc import Callable
from pathlib import Path

import cyclopts
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits

from bench.pretrain.catalog import FAMILIES
from bench.pretrain.finish import finish
from unfreeze.demo.wallpaper.dataset import WallpaperSet, write_wallpaper_groups

_VAL_OF_TEN = 3
_DIGIT_PX, _TEXTURE_PX = 128, 224
TEXTURES = 14
# Training images of each kind of star and polygon: those of the most are 43 times those of the fewest.
_STARS = {"gon 4": 300, "star 5": 175, "gon 3": 103, "star 4": 60, "gon 6": 35, "star 6": 21, "gon 5": 12, "star 3": 7}
_STAR_PX, _FEWEST_VAL = 192, 15
_NUMBER_PX = 64


def main(out: Path) -> None:
    """Write digits (scikit-learn's, 10 classes), textures (14), stars (8, imbalanced) and wallpaper groups (17).

    Args:
        out: folder that receives a folder for each set.
    """
    write_digits(out / "digits")
    write_textures(out / "textures")
    write_stars(out / "stars")
    write_wallpaper_groups(out / "wallpaper", WallpaperSet(train_per_class=60, val_per_class=20))


def write_digits(folder: Path) -> None:
    """Write scikit-learn's 1,797 handwritten digits, 8 by 8 pixels, enlarged."""
    digits = load_digits()
    for number, (gray, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        image = Image.fromarray((gray / 16 * 255).astype(np.uint8)).convert("RGB")
        _save(image.resize((_DIGIT_PX, _DIGIT_PX), Image.Resampling.BICUBIC), folder, str(label), number)


def write_textures(folder: Path, each: int = 70) -> None:
    """Draw textures of fourteen kinds from the families that the built-in weights were pretrained on."""
    kinds: list[tuple[str, Callable[..., np.ndarray]]] = sorted(FAMILIES["texture"].items())[:TEXTURES]
    for kind, (name, draw) in enumerate(kinds):
        for number in range(each):
            drawn = np.asarray(draw(np.random.default_rng((kind, number)), _TEXTURE_PX))
            _save(Image.fromarray(drawn.clip(0, 255).astype(np.uint8)).convert("RGB"), folder, name, number)


def write_stars(folder: Path) -> None:
    """Draw stars and polygons of eight kinds: 7 to 300 training images, and validation images in proportion."""
    for kind, (name, count) in enumerate(_STARS.items()):
        validated = max(_FEWEST_VAL, round(count * _VAL_OF_TEN / (10 - _VAL_OF_TEN)))
        for split, first, images in (("train", 0, count), ("val", 100_000, validated)):
            path = folder / split / name.replace(" ", "-")
            path.mkdir(parents=True, exist_ok=True)
            for number in range(images):
                rng = np.random.default_rng((kind, first + number))
                drawn = finish(rng, FAMILIES["star"][name](rng, _STAR_PX))
                Image.fromarray(drawn).save(path / f"{number:04}.jpg", quality=90)


def write_numbers(folder: Path, classes: int = 1000, each: int = 6) -> None:
    """Write the numbers from 0 on, one class for each, in random colors, sizes and places; half for validation."""
    for label in range(classes):
        for number in range(each):
            rng = np.random.default_rng((label, number))
            dark, light = rng.integers(0, 110, 3), rng.integers(150, 256, 3)
            image = Image.new("RGB", (_NUMBER_PX, _NUMBER_PX), tuple(light.tolist()))
            place, size = rng.integers(2, 14, 2), int(rng.integers(22, 30))
            font = ImageFont.load_default(size)
            ImageDraw.Draw(image).text(tuple(place.tolist()), f"{label:03}", tuple(dark.tolist()), font)
            _save(image, folder, f"{label:03}", number)


def _save(image: Image.Image, folder: Path, label: str, number: int) -> None:
    split = "val" if number % 10 < _VAL_OF_TEN else "train"
    path = folder / split / label / f"{number:04}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=90)


if __name__ == "__main__":
    cyclopts.run(main)
