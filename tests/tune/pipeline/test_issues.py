"""A run finds suspicious images, and the next one leaves them out or relabels them."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from support.images import write_images
from support.interrupted import Moment, tune_in_process

from bench.images import write_textures
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

pytestmark = pytest.mark.xdist_group("issues")

OPTIONS = TuneOptions(
    backbone="mobilenet_v3_small", weights="builtin", image_size=96, recipe="probe", device="cpu", store_gb=0.0
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Textures, of whose training images every twentieth is in the folder of the next class, and two special images."""
    folder = tmp_path_factory.mktemp("noisy") / "data"
    write_textures(folder, 40)
    kinds = sorted(path.name for path in (folder / "train").iterdir())
    files = sorted((folder / "train").glob("*/*.jpg"))
    for file in files[::20]:
        following = kinds[(kinds.index(file.parent.name) + 1) % len(kinds)]
        file.rename(folder / "train" / following / f"{file.parent.name}-{file.name}")
    Image.new("L", (64, 64), 90).save(folder / "train" / kinds[4] / "blank.png")
    shutil.copy(files[1], folder / "train" / kinds[7] / "copy.jpg")
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on these images."""
    out = tmp_path_factory.mktemp("run")
    fine_tune(data, out, OPTIONS)
    return out


def _lines(run: Path) -> dict[str, dict[str, str]]:
    """Return the lines of the file by path."""
    with (run / "label_issues.csv").open(newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def test_finds_exchanged_labels(run: Path) -> None:
    """At least 80 % of them, with a precision of at least 70 %, and with the right suggestion."""
    suspected = {path: row for path, row in _lines(run).items() if row["split"] == "train" and row["kind"] == "label"}
    hits = {path: row for path, row in suspected.items() if "-" in Path(path).name}
    exchanged = 20  # of 392
    assert len(hits) >= 0.8 * exchanged
    assert len(hits) >= 0.7 * len(suspected)
    right = [Path(path).name.startswith(f"{row['suggested_label']}-") for path, row in hits.items()]
    assert sum(right) >= 0.9 * len(right)
    shares = [float(row["probability"]) for row in suspected.values()]
    assert shares == sorted(shares)


def test_finds_blank_and_contradictory_images(run: Path) -> None:
    """With the other image of a contradiction; the numbers are in the metrics."""
    lines = _lines(run)
    assert [Path(path).name for path, row in lines.items() if row["kind"] == "blank"] == ["blank.png"]
    copied = next(row for path, row in lines.items() if path.endswith("copy.jpg"))
    assert copied["kind"] == "label"
    original = next(row for row in lines.values() if row["kind"] == "duplicate")
    assert original["detail"].endswith(f"copy.jpg ({copied['label']})")
    assert original["suggested_label"] == original["label"]
    counts = json.loads((run / "metrics.json").read_text())["issues"]
    kinds = [row["kind"] for row in lines.values()]
    assert counts == {kind: kinds.count(kind) for kind in set(kinds)}


@pytest.mark.parametrize("option", ["drop_issues", "relabel"])
def test_the_next_run_is_better_without_them(option: str, data: Path, run: Path, tmp_path: Path) -> None:
    """On the validation images, which are all right."""
    metrics = fine_tune(data, tmp_path / "run", replace(OPTIONS, **{option: str(run / "label_issues.csv")}))
    before = json.loads((run / "metrics.json").read_text())
    assert metrics["val_accuracy"] > before["val_accuracy"]
    assert metrics["issues"].get("label", 0) < before["issues"]["label"] / 2
    listed = sum(row["split"] == "train" for row in _lines(run).values())
    assert before["images"]["train"] - metrics["images"]["train"] == (listed if option == "drop_issues" else 0)


def test_a_resumed_run_has_the_same_issues(data: Path, run: Path, tmp_path: Path) -> None:
    """Those of the training images were found before the interruption."""
    moment = Moment(progress="evaluating in full precision", step=1)
    assert tune_in_process(data, tmp_path / "run", OPTIONS, moment) == -9
    fine_tune(data, tmp_path / "run", OPTIONS, resume=True)
    assert (tmp_path / "run" / "label_issues.csv").read_bytes() == (run / "label_issues.csv").read_bytes()


def test_an_overwritten_run_has_its_own_file(tmp_path: Path) -> None:
    """Without issues, it has only the header."""
    data = write_images(tmp_path / "data", 8)
    fine_tune(data, tmp_path / "run", OPTIONS)
    (tmp_path / "run" / "label_issues.csv").write_text("old")
    fine_tune(data, tmp_path / "run", OPTIONS, overwrite=True)
    assert (tmp_path / "run" / "label_issues.csv").read_text().startswith("path,split,label,suggested_label,kind,")
