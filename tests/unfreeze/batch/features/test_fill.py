"""`unfreeze features` on one machine."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.cli import run_cli
from support.images import write_images

from unfreeze.batch.features.spaces import CollectingSpace, PatientSpace
from unfreeze.batch.features.worker import check_description
from unfreeze.contract.errors import UnfreezeError
from unfreeze.tune.store.folder import store_folder
from unfreeze.tune.store.store import FeatureStore

pytestmark = pytest.mark.xdist_group("commands")
_OPTIONS = ["--weights", "builtin", "--image-size", "64"]


def _segments() -> set[str]:
    return {path.name for path in store_folder().rglob("*.safetensors")}


def test_a_probe_computes_nothing_after_features(tmp_path: Path) -> None:
    """It stores nothing more and has the bits of a run without a store; of one more image, little is computed."""
    data = tmp_path / "data"
    write_images(data, 9)
    filled = run_cli("features", data, *_OPTIONS, "--views", "2", "--flip", "no")
    assert "features of 27 images, 27 computed now" in filled.stdout, filled.stderr
    segments = _segments()
    tune = ["tune", data, *_OPTIONS, "--views", "2", "--flip", "no", "--recipe"]
    assert run_cli(*tune, "svm", "--out", tmp_path / "svm").returncode == 0
    assert run_cli(*tune, "probe", "--out", tmp_path / "stored").returncode == 0
    assert _segments() == segments
    assert run_cli(*tune, "probe", "--out", tmp_path / "alone", "--store-gb", "0").returncode == 0
    for name in ("model.safetensors", "predictions.csv"):
        assert (tmp_path / "stored" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
    (data / "red" / "new.jpg").write_bytes((data / "blue" / "000.jpg").read_bytes() + b"\0")
    filled = run_cli("features", data, *_OPTIONS, "--views", "2", "--flip", "no")
    assert "features of 28 images, " in filled.stdout
    assert (
        int(filled.stdout.split(" images, ")[1].split(" ")[0]) <= 4
    )  # another split has some other images to evaluate on


@pytest.mark.parametrize(
    ("options", "message", "code"),
    [
        (
            ["--recipe", "last-blocks"],
            "the store is filled for linear recipes, such as probe, got --recipe last-blo",
            2,
        ),
        (["--cut", "all"], "the store is filled for linear recipes, such as probe, got --recipe all", 2),
        (["--strict"], "--strict is for tune", 2),
        (["--store-gb", "0"], "--store-gb 0 turns the feature store off", 2),
        (["--backbone", "auto"], "--backbone auto compares backbones; name one", 2),
        (["--store-gb", "0.00001"], "do not hold the features of all images; a larger --store-gb does", 1),
    ],
)
def test_what_cannot_be_stored_is_an_error(tmp_path: Path, options: list[str], message: str, code: int) -> None:
    """Unlike in a run, for which the store is a cache, it is what the command is for."""
    write_images(tmp_path / "data", 3)
    done = run_cli("features", tmp_path / "data", *_OPTIONS, *options)
    assert (done.returncode, message in " ".join(done.stderr.split())) == (code, True), done.stderr


def test_rows_wait_for_a_slow_disk(tmp_path: Path) -> None:
    """A run leaves rows out where the disk is slower; here they wait, and a store that takes no more is an error."""
    with FeatureStore(1 << 30, tmp_path) as store:
        space = store.space({"backbone": "none"})
        writer = store._writer
        assert writer is not None
        writer._backlog_bytes = 1 << 40
        timer = threading.Timer(0.2, lambda: setattr(writer, "_backlog_bytes", 0))
        timer.start()
        started = time.monotonic()
        PatientSpace(space=space).add(["0" * 32], {"features": np.ones((1, 3), np.float32)})
        assert time.monotonic() - started > 0.15
        timer.join()
        while not list(tmp_path.rglob("*.safetensors")):
            writer.close()
        writer._stop("the disk is full")
        with pytest.raises(UnfreezeError, match="the feature store takes no more rows"):
            PatientSpace(space=space).add(["1" * 32], {"features": np.ones((1, 3), np.float32)})
    with FeatureStore(1 << 30, tmp_path) as store:
        assert store.space({"backbone": "none"}).find(["0" * 32, "1" * 32], ["features"]).tolist() == [True, False]


def test_rows_are_collected_for_another_process() -> None:
    """In the order in which they are computed; nothing is found or read."""
    space = CollectingSpace()
    space.add(["a", "b"], {"features": np.ones((2, 3), np.float32)})
    space.add(["c"], {"features": np.zeros((1, 3), np.float32)})
    assert space.keys == ["a", "b", "c"]
    assert np.concatenate(space.rows["features"]).tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert not space.find(["a"], ["features"]).any()
    assert not space.read(["a"], ["features"], lambda _column, _rows, _values: None).any()


def test_a_machine_that_computes_other_bits_is_refused() -> None:
    """With what differs: its rows would never be found."""
    wanted = {"torch": "2.15", "processor": "x86_64 AVX512", "preprocess": {"resize": (40,)}}
    check_description(wanted | {"preprocess": {"resize": [40]}}, wanted)
    with pytest.raises(
        UnfreezeError, match=r"this machine would .* other bits .*: processor 'x86_64 AVX2' instead of 'x86_"
    ):
        check_description(wanted | {"processor": "x86_64 AVX2"}, wanted)
