"""The demonstration's images on disk: ordinary folders, the same for the same seed, whole or not there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unfreeze.contract.errors import DataError
from unfreeze.demo.wallpaper_folder import WallpaperSet, write_wallpaper_groups
from unfreeze.demo.wallpaper_groups import GROUPS
from unfreeze.tune.data.dataset import read_dataset

SMALL = WallpaperSet(train_per_class=6, val_per_class=1, size=48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training images and one validation image of each group."""
    out = tmp_path_factory.mktemp("drawn") / "images"
    write_wallpaper_groups(out, SMALL)
    return out


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def test_the_folder_is_a_data_set(folder: Path) -> None:
    """Tuning reads it: 17 classes, every file an image, most of them JPEG and some PNG."""
    dataset = read_dataset(folder)
    assert dataset.labels == tuple(sorted(GROUPS))
    assert [len(images) for images in dataset.splits.values()] == [6 * 17, 17]
    assert dataset.skipped == ()
    kinds = set()
    for image in dataset.splits["train"]:
        with Image.open(image.path) as opened:
            kinds.add((opened.format, opened.mode, opened.size))
    assert kinds == {("JPEG", "RGB", (48, 48)), ("PNG", "RGB", (48, 48))}


def test_the_same_seed_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    """More images or fewer: those of one name are the same bytes; another seed gives others."""
    write_wallpaper_groups(tmp_path / "fewer", WallpaperSet(train_per_class=2, val_per_class=1, size=48))
    first, fewer = _files(folder), _files(tmp_path / "fewer")
    assert {name: first[name] for name in fewer if not name.startswith(".")} == {
        name: content for name, content in fewer.items() if not name.startswith(".")
    }
    write_wallpaper_groups(tmp_path / "other", WallpaperSet(train_per_class=1, val_per_class=1, size=48, seed=1))
    other = _files(tmp_path / "other")
    assert all(first[name] != content for name, content in other.items() if name.endswith(".jpg"))


def test_train_and_val_share_no_image(folder: Path) -> None:
    """No two files are the same."""
    contents = [content for name, content in _files(folder).items() if not name.startswith(".")]
    assert len(set(contents)) == len(contents)


def test_a_folder_that_is_there_is_kept_or_refused_or_drawn_anew(tmp_path: Path) -> None:
    """The same set is left as it is, another set replaces it, and anybody else's folder is not touched."""
    out, tiny = tmp_path / "images", WallpaperSet(train_per_class=1, val_per_class=1, size=48)
    write_wallpaper_groups(out, tiny)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    write_wallpaper_groups(out, tiny)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    write_wallpaper_groups(out, WallpaperSet(train_per_class=2, val_per_class=1, size=48))
    assert len(list((out / "train" / "p1").iterdir())) == 2
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="was not drawn by this program"):
        write_wallpaper_groups(mine, tiny)
    assert [path.name for path in mine.iterdir()] == ["letter.txt"]


class _Interrupting:
    """A reporter in front of which somebody presses Ctrl-C."""

    def info(self, text: str) -> None:
        """Say nothing."""

    def track(self, what: str, total: int) -> Callable[[int], None]:  # noqa: ARG002 - a reporter's shape
        """Interrupt at the first step."""

        def advance(steps: int) -> None:
            raise KeyboardInterrupt(steps)

        return advance


def test_an_interrupted_drawing_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C while drawing leaves neither a half set nor a temporary folder."""
    with pytest.raises(KeyboardInterrupt):
        write_wallpaper_groups(tmp_path / "images", SMALL, _Interrupting())
    assert list(tmp_path.iterdir()) == []


def test_groups_differ_in_the_image(folder: Path) -> None:
    """No two groups' first images are alike."""
    images = [_pixels(folder / "train" / group / "0001.jpg") for group in GROUPS]
    for index, one in enumerate(images):
        assert all(np.abs(one - other).mean() > 3 for other in images[:index])


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)
