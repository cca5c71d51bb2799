"""The wallpaper images on disk: an ordinary data set, reproducible from its seed."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unfreeze.demo.wallpaper.dataset import WallpaperSet, write_wallpaper_groups
from unfreeze.demo.wallpaper.groups import GROUPS
from unfreeze.tune.data.dataset import read_dataset

pytestmark = pytest.mark.xdist_group("wallpaper")

SMALL = WallpaperSet(train_per_class=6, val_per_class=1, size=48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training images and one validation image per group."""
    out = tmp_path_factory.mktemp("drawn") / "images"
    write_wallpaper_groups(out, SMALL)
    return out


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def test_folder_is_a_readable_data_set(folder: Path) -> None:
    """It has 17 classes of RGB images, most of them JPEG and some PNG."""
    dataset = read_dataset(folder)
    assert dataset.labels == tuple(sorted(GROUPS))
    assert [len(images) for images in dataset.splits.values()] == [6 * 17, 17]
    assert dataset.skipped == ()
    kinds = set()
    for image in dataset.splits["train"]:
        with Image.open(image.path) as opened:
            kinds.add((opened.format, opened.mode, opened.size))
    assert kinds == {("JPEG", "RGB", (48, 48)), ("PNG", "RGB", (48, 48))}


def test_files_depend_on_seed_and_name_alone(folder: Path, tmp_path: Path) -> None:
    """With other counts, files of the same name have the same bytes; another seed gives other images."""
    write_wallpaper_groups(tmp_path / "fewer", WallpaperSet(train_per_class=2, val_per_class=1, size=48))
    first, fewer = _files(folder), _files(tmp_path / "fewer")
    assert {name: first[name] for name in fewer if not name.startswith(".")} == {
        name: content for name, content in fewer.items() if not name.startswith(".")
    }
    write_wallpaper_groups(tmp_path / "other", WallpaperSet(train_per_class=1, val_per_class=1, size=48, seed=1))
    other = _files(tmp_path / "other")
    assert all(first[name] != content for name, content in other.items() if name.endswith(".jpg"))


def test_no_image_occurs_twice(folder: Path) -> None:
    """All files differ, within and across the splits."""
    contents = [content for name, content in _files(folder).items() if not name.startswith(".")]
    assert len(set(contents)) == len(contents)


class _Interrupting:
    """A reporter that raises KeyboardInterrupt at the first step."""

    def info(self, text: str) -> None:
        """Print nothing."""

    def track(self, what: str, total: int) -> Callable[[int], None]:  # noqa: ARG002 - the signature of a reporter
        """Interrupt at the first step."""

        def advance(steps: int) -> None:
            raise KeyboardInterrupt(steps)

        return advance


def test_interrupted_drawing_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C while the worker processes draw leaves neither a partial data set nor a temporary folder."""
    with pytest.raises(KeyboardInterrupt):
        write_wallpaper_groups(
            tmp_path / "images", WallpaperSet(train_per_class=1, val_per_class=1, size=48), _Interrupting()
        )
    assert list(tmp_path.iterdir()) == []


def test_images_of_different_groups_differ(folder: Path) -> None:
    """The first images of every two groups differ."""
    images = [_pixels(folder / "train" / group / "0001.jpg") for group in GROUPS]
    for index, one in enumerate(images):
        assert all(np.abs(one - other).mean() > 3 for other in images[:index])


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_drawing_processes_do_not_import_torch() -> None:
    """The module that worker processes import is light, so that they start quickly."""
    code = "import sys, unfreeze.demo.wallpaper.dataset; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
