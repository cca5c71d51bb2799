"""Whole tuning runs with a feature store: equal results, whatever is stored and whatever happens to the folder."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.images import draw_image, encode, write_images
from support.interrupted import Moment, tune_in_process
from support.stores import Messages, size_of

from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

pytestmark = pytest.mark.xdist_group("tune-run")

AUTO = TuneOptions(backbone="mobilenet_v3_small", weights="builtin", device="cpu", epochs=1, batch_size=16)
OPTIONS = replace(AUTO, cut="features.9", learning_rate=5e-4, image_size=64)
_FORK = multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload(["unfreeze.tune.run"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train, val and test folders of three colors."""
    folder = tmp_path_factory.mktemp("data")
    for split, count, seed in (("train", 9, 0), ("val", 3, 5000), ("test", 2, 9000)):
        write_images(folder / split, count, seed)
    return folder


def _result(run: Path) -> tuple[bytes, dict[str, Any]]:
    """Return the weights of a run, and its metrics without its duration."""
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["seconds"]
    metrics["options"].pop("store_gb")
    return (run / "model.safetensors").read_bytes(), metrics


@dataclass(frozen=True, kw_only=True)
class First:
    """The store of a first run, and its result."""

    cache: Path
    result: tuple[bytes, dict[str, Any]]


@pytest.fixture(scope="module")
def first(data: Path, tmp_path_factory: pytest.TempPathFactory) -> First:
    """A run with an empty store."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNFREEZE_CACHE_DIR", str(folder / "cache"))
        fine_tune(data, folder / "run", OPTIONS)
    return First(cache=folder / "cache", result=_result(folder / "run"))


@pytest.fixture
def stored(first: First, cache_folder: Path) -> Path:
    """The test's own cache folder, with what that run stored."""
    return Path(shutil.copytree(first.cache, cache_folder, dirs_exist_ok=True))


@pytest.fixture(scope="module")
def unstored(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, Any]]:
    """The result of that run without a store."""
    out = tmp_path_factory.mktemp("unstored") / "run"
    fine_tune(data, out, replace(OPTIONS, store_gb=0.0))
    return _result(out)


@pytest.fixture
def tuned(tmp_path: Path, data: Path) -> Callable[..., tuple[bytes, dict[str, Any]]]:
    """Tune with the store in a folder, or without one."""

    def tune(options: TuneOptions = OPTIONS, *, stored: bool = True) -> tuple[bytes, dict[str, Any]]:
        out = tmp_path / "run"
        options = options if stored else replace(options, store_gb=0.0)
        fine_tune(data, out, options, overwrite=True)
        return _result(out)

    return tune


CHANGES = {
    "recipe": {"recipe": "probe", "cut": "auto"},
    "cut": {"cut": "features.11"},
    "seed and views": {"seed": 3, "views": 2},
    "all blocks": {"cut": "all"},
    "image size": {"image_size": 48},
}


def test_a_first_run_gives_the_result_of_one_without_a_store(
    first: First, unstored: tuple[bytes, dict[str, Any]]
) -> None:
    """Weights and metrics are equal, and there are files in the store."""
    assert size_of(first.cache) > 10_000
    assert first.result == unstored


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("change", CHANGES)
def test_a_second_run_gives_the_result_of_one_without_a_store(
    change: str, tuned: Callable[..., tuple[bytes, dict[str, Any]]]
) -> None:
    """Weights and metrics are equal with other options on what a first run has stored."""
    options = replace(OPTIONS, **CHANGES[change])
    assert tuned(options) == tuned(options, stored=False)


def test_a_search_on_what_it_stored_gives_the_result_of_one_without_a_store(
    tuned: Callable[..., tuple[bytes, dict[str, Any]]],
) -> None:
    """The choice, the weights and the metrics are equal: with an empty store, and with a full one."""
    first = tuned(AUTO)
    assert first == tuned(AUTO) == tuned(AUTO, stored=False)
    assert first[1]["survey"]


@pytest.mark.usefixtures("stored")
def test_new_changed_and_relabeled_images_give_the_result_of_a_run_without_a_store(data: Path, tmp_path: Path) -> None:
    """Of a run on other images, everything that did not change is used."""
    data = Path(shutil.copytree(data, tmp_path / "data"))
    for number in range(10):
        (data / "train" / "red" / f"new{number}.jpg").write_bytes(encode(draw_image((220, 40, 40), 700 + number)))
    (data / "train" / "blue" / "000.jpg").write_bytes(encode(draw_image((30, 60, 220), 800)))
    (data / "train" / "blue" / "001.jpg").rename(data / "train" / "green" / "corrected.jpg")
    fine_tune(data, tmp_path / "with", OPTIONS)
    fine_tune(data, tmp_path / "without", replace(OPTIONS, store_gb=0.0))
    assert _result(tmp_path / "with") == _result(tmp_path / "without")


def test_a_second_run_stores_nothing_new(stored: Path, first: First, tuned: Callable[..., Any]) -> None:
    """Every image of every split is found."""
    before = {path: path.read_bytes() for path in stored.rglob("*") if path.is_file()}
    assert len(before) > 4
    assert tuned() == first.result
    assert {path: path.read_bytes() for path in stored.rglob("*") if path.is_file()} == before


def test_a_small_store_stays_within_its_bound(
    cache_folder: Path, data: Path, unstored: tuple[bytes, dict[str, Any]], tmp_path: Path
) -> None:
    """The run says in one line that more would be stored, and its result does not change."""
    reporter = Messages()
    options = replace(OPTIONS, store_gb=1e-4)
    fine_tune(data, tmp_path / "small", options, reporter)
    assert 0 < size_of(cache_folder) <= 1e5
    assert len([text for text in reporter.messages if text.startswith("feature store: ")]) == 1
    fine_tune(data, tmp_path / "again", options)
    assert _result(tmp_path / "small") == _result(tmp_path / "again") == unstored


def test_a_damaged_store_does_not_change_the_result(
    stored: Path, first: First, data: Path, tmp_path: Path, tuned: Callable[..., Any]
) -> None:
    """Every file is truncated; the run computes again and stores again."""
    for path in stored.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-9])
    reporter = Messages()
    fine_tune(data, tmp_path / "damaged", OPTIONS, reporter)
    assert _result(tmp_path / "damaged") == first.result
    assert any("is damaged" in text for text in reporter.messages)
    assert tuned() == first.result


def test_a_folder_that_cannot_be_used_does_not_change_the_result(
    cache_folder: Path,
    tuned: Callable[..., Any],
    unstored: tuple[bytes, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file is in its place."""
    (cache_folder / "file").write_text("x")
    monkeypatch.setenv("UNFREEZE_CACHE_DIR", str(cache_folder / "file"))
    assert tuned() == unstored


def _tune_in(cache: Path, data: Path, out: Path) -> None:
    os.environ["UNFREEZE_CACHE_DIR"] = str(cache)
    torch.set_num_threads(1)
    fine_tune(data, out, OPTIONS)


def test_two_processes_tune_at_once_on_one_store(cache_folder: Path, data: Path, tmp_path: Path) -> None:
    """Both give the same result, and so does a third one on what they stored."""
    runs = [tmp_path / name for name in ("one", "two")]
    processes = [_FORK.Process(target=_tune_in, args=(cache_folder, data, run)) for run in runs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    third = _FORK.Process(target=_tune_in, args=(cache_folder, data, tmp_path / "three"))
    third.start()
    third.join()
    assert _result(runs[0]) == _result(runs[1]) == _result(tmp_path / "three")


def test_the_store_is_no_part_of_what_a_resumed_run_repeats(data: Path, tmp_path: Path) -> None:
    """A run that was started with a store continues without one, and the other way round."""
    finished = tmp_path / "finished"
    assert tune_in_process(data, finished, replace(OPTIONS, epochs=2)) == 0
    for name, first, second in (("with", 10.0, 0.0), ("without", 0.0, 10.0)):
        options = replace(OPTIONS, epochs=2, store_gb=first)
        run = tmp_path / name
        assert tune_in_process(data, run, options, Moment(progress="training", step=1)) == -9
        assert tune_in_process(data, run, replace(options, store_gb=second), resume=True) == 0
        assert (run / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()
        shutil.rmtree(run)
