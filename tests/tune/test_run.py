"""A whole tuning run, on real files."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from support.images import write_images

from unfreeze.contract.errors import CheckpointError, DataError, OptionsError, UnfreezeError, WeightsError
from unfreeze.contract.images.preprocess import prepare
from unfreeze.tune.artifacts.checkpoint import claimed, load_run, save_run
from unfreeze.tune.backbones.weights import load_pretrained
from unfreeze.tune.evaluation.evaluate import evaluate
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.recipes.registry import RECIPES
from unfreeze.tune.run import fine_tune

BUILTIN = TuneOptions(backbone="mobilenet_v3_small", weights="builtin", device="cpu", epochs=2, views=2, batch_size=16)


class Heard:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: dict[str, list[int]] = {}

    def info(self, text: str) -> None:
        """Remember a remark."""
        self.said.append(text)

    def track(self, what: str, total: int) -> Callable[[int], None]:
        """Remember how far a bar came."""
        bar = self.steps[what] = [0, total]

        def advance(steps: int) -> None:
            bar[0] += steps

        return advance


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train, val and test folders of three colors; one training and one validation file are no images."""
    folder = tmp_path_factory.mktemp("data")
    for split, count, seed in (("train", 12, 0), ("val", 6, 5000), ("test", 3, 9000)):
        write_images(folder / split, count, seed)
    (folder / "train" / "red" / "broken.jpg").write_bytes(b"no image")
    (folder / "val" / "blue" / "broken.png").write_bytes(b"")
    (folder / "train" / "red" / "notes.txt").write_text("x")
    return folder


@pytest.fixture(scope="module")
def heard() -> Heard:
    """What the run below says."""
    return Heard()


@pytest.fixture(scope="module")
def run(data: Path, heard: Heard, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that tunes the last two blocks."""
    out = tmp_path_factory.mktemp("run") / "deep" / "run"
    fine_tune(data, out, replace(BUILTIN, cut="features.11", learning_rate=5e-4, abstain_precision=0.6), heard)
    return out


def test_a_run_holds_weights_facts_and_metrics_and_no_pickle(run: Path, data: Path) -> None:
    """The folder holds safetensors and JSON alone; the metrics say what was found, learned and skipped."""
    assert {path.name for path in run.iterdir()} == {
        "model.safetensors",
        "run.json",
        "metrics.json",
        "epochs.jsonl",
        "tensorboard",
    }
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["val_accuracy"] >= 0.5  # the built-in weights were made to disregard color; chance is 0.33
    assert metrics["labels"] == ["blue", "green", "red"]
    assert metrics["images"] == {"train": 36, "val": 18, "test": 9}
    assert {Path(item["path"]).relative_to(data).as_posix() for item in metrics["skipped"]} == {
        "train/red/broken.jpg",
        "val/blue/broken.png",
        "train/red/notes.txt",
    }
    assert metrics["backbone"] == "mobilenet_v3_small"
    assert metrics["seconds"] > 0
    assert (metrics["batch_size"], metrics["flipped"]) == (16, False)
    assert (metrics["recipe"], metrics["cut"], metrics["learning_rate"]) == ("last-blocks", "features.11", 5e-4)
    assert metrics["reason"] == "last-blocks from features.11 at rate 0.0005: as asked"
    assert [epoch["number"] for epoch in metrics["epochs"]] == [1, 2]
    lines = (run / "epochs.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == metrics["epochs"]
    kinds = {finding["kind"]: finding["count"] for finding in metrics["findings"]}
    assert kinds == {"undecodable": 2, "skipped": 1}
    assert metrics["abstain"]["precision_wanted"] == 0.6
    assert load_run(run)[1].abstain_below == metrics["abstain"]["threshold"]
    assert safetensors.torch.load_file(run / "model.safetensors")


def test_the_run_reports_every_step_to_its_end(run: Path, heard: Heard) -> None:
    """All bars come to their end, and the remarks name classes and images."""
    assert run.exists()
    assert "3 classes; images: 37 train, 19 val, 9 test; 1 files skipped" in heard.said
    training = "training: last-blocks from features.11 at rate 0.0005"
    assert {"inspecting the images", "running the backbone over the training images", training} <= set(heard.steps)
    for what, (done, total) in heard.steps.items():
        assert done == total, what


def test_a_loaded_run_gives_the_accuracy_that_was_reported(run: Path, data: Path) -> None:
    """The network that is read back classifies the validation images as the metrics say."""
    network, facts = load_run(run)
    files = facts.images()
    assert len(files) == 18
    assert all(image.path.is_relative_to(data / "val") for image in files)
    pixels = np.stack([prepare(image.path.read_bytes(), facts.preprocess) for image in files])
    with torch.inference_mode():
        found = network(torch.from_numpy(pixels)).argmax(1).numpy()
    labels = np.array([image.label for image in files])
    assert (found == labels).mean() == json.loads((run / "metrics.json").read_text())["val_accuracy"]
    assert facts.provenance.weights == "builtin"
    assert len(facts.provenance.weights_sha256) == 64


def test_blocks_before_the_cut_are_the_pretrained_ones(run: Path) -> None:
    """What lies before the cut leaves tuning as it came; what lies behind it does not, unless the probe was kept."""
    network, facts = load_run(run)
    pretrained = load_pretrained("mobilenet_v3_small", "builtin").model.state_dict()
    position = network.position(facts.provenance.cut)
    frozen = tuple(f"{name}." for name in network.block_names[:position])
    changed = {key for key, value in network.model.state_dict().items() if not torch.equal(value, pretrained[key])}
    assert not [key for key in changed if key.startswith(frozen)]
    assert (facts.provenance.cut == "head") == (not changed)


def test_equal_seeds_give_equal_runs(data: Path, tmp_path: Path) -> None:
    """With everything chosen by cross-validation, two runs end in the same bytes and the same evidence."""
    for name in ("one", "two"):
        fine_tune(data, tmp_path / name, replace(BUILTIN, epochs=2))
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    for key in ("survey", "candidates", "reason", "epochs", "val_accuracy"):
        assert metrics[0][key] == metrics[1][key], key
    assert [depth["cut"] for depth in metrics[0]["survey"]][-2:] == ["features.12", "head"]
    assert [score["recipe"] for score in metrics[0]["candidates"]][:3] == ["probe", "one-vs-rest", "svm"]
    assert sum(score["chosen"] for score in metrics[0]["candidates"]) == 1


def test_a_cut_that_is_asked_for_gets_its_rate_from_cross_validation(data: Path, tmp_path: Path) -> None:
    """With --cut and without --learning-rate, the two rates are tried there; with both, nothing is."""
    metrics = fine_tune(data, tmp_path / "one", replace(BUILTIN, cut="features.12", epochs=2))
    tried = {(score["recipe"], score["cut"], score["learning_rate"]) for score in metrics["candidates"]}
    assert tried == {("last-blocks", "features.12", 5e-4), ("last-blocks", "features.12", 3e-3)}
    (chosen,) = (score for score in metrics["candidates"] if score["chosen"])
    assert metrics["learning_rate"] == chosen["learning_rate"]
    assert [epoch["number"] for epoch in metrics["epochs"]] == [1, 2]
    metrics = fine_tune(data, tmp_path / "two", replace(BUILTIN, cut="features.12", epochs=1, learning_rate=0.01))
    assert (metrics["candidates"], metrics["learning_rate"]) == ([], 0.01)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_makes_a_run_that_answers_as_it_was_measured(recipe: str, data: Path, tmp_path: Path) -> None:
    """By name, each recipe trains what it says, and what is read back gives the accuracy that was reported."""
    options = replace(BUILTIN, recipe=recipe, cut="features.12" if recipe == "last-blocks" else "auto", epochs=1)
    metrics = fine_tune(data, tmp_path / "run", replace(options, learning_rate=5e-4))
    assert metrics["recipe"] == recipe
    network, facts = load_run(tmp_path / "run")
    evaluation = evaluate(network, facts.images(), facts.preprocess, torch.device("cpu"))
    assert evaluation.accuracy == metrics["val_accuracy"]
    assert evaluation.probabilities(facts.temperature).sum(1) == pytest.approx(1, abs=1e-5)
    assert facts.link == ("sigmoid" if recipe in ("one-vs-rest", "svm") else "softmax")
    pretrained = load_pretrained("mobilenet_v3_small", "builtin").model.state_dict()
    changed = {key for key, value in network.model.state_dict().items() if not torch.equal(value, pretrained[key])}
    touched = {key.split(".")[1] for key in changed}
    expected = {
        "last-blocks": {"12"},
        "stem-head": {"0"},
        "all": {str(number) for number in range(13)},
        "scratch": {str(number) for number in range(13)},
    }
    assert touched == expected.get(recipe, set())


def test_training_that_ends_below_the_probe_is_told(data: Path, tmp_path: Path) -> None:
    """What was asked for by name is done, and where the probe would have been better, the run says so."""
    heard = Heard()
    wild = replace(BUILTIN, cut="all", learning_rate=0.3, epochs=1)
    metrics = fine_tune(data, tmp_path / "run", wild, heard)
    assert metrics["val_accuracy"] < metrics["probe_val_accuracy"]
    assert "--recipe probe gives that one" in " ".join(heard.said)


def test_training_that_would_harm_is_not_chosen(data: Path, tmp_path: Path) -> None:
    """Where every step destroys the features, the recipe that is chosen trains no block."""
    metrics = fine_tune(data, tmp_path / "run", replace(BUILTIN, learning_rate=10.0))
    assert metrics["recipe"] in ("probe", "one-vs-rest", "svm")
    assert metrics["val_accuracy"] == metrics["probe_val_accuracy"]
    pretrained = load_pretrained("mobilenet_v3_small", "builtin").model.state_dict()
    network, _ = load_run(tmp_path / "run")
    assert all(torch.equal(value, pretrained[key]) for key, value in network.model.state_dict().items())


def test_strict_mode_refuses_data_with_problems(data: Path, tmp_path: Path) -> None:
    """With --strict, what is a remark otherwise ends the run before anything is paid for."""
    with pytest.raises(DataError, match=r"2 files do not decode(?s:.*)1 files were found and are not used"):
        fine_tune(data, tmp_path / "run", replace(BUILTIN, strict=True))


def test_activations_over_the_budget_are_computed_anew_to_the_same_weights(data: Path, tmp_path: Path) -> None:
    """Without room for the cache, the run says so and ends in the very weights that it ends in with room."""
    options = replace(BUILTIN, cut="features.11", learning_rate=5e-4)
    heard = Heard()
    fine_tune(data, tmp_path / "kept", options)
    fine_tune(data, tmp_path / "anew", replace(options, cache_gb=1e-6), heard)
    assert "images and frozen blocks are run anew in every epoch" in " ".join(heard.said)
    kept, anew = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("kept", "anew"))
    assert kept == anew


def test_a_list_of_images_makes_a_run_that_can_be_read_back(data: Path, tmp_path: Path) -> None:
    """A CSV file with labels and splits is as good as folders."""
    rows = [
        f"{path.absolute()},{path.parent.name},{path.parent.parent.name}"
        for path in sorted(data.rglob("*.jpg"))
        if "broken" not in path.name
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    metrics = fine_tune(tmp_path / "labels.csv", tmp_path / "run", replace(BUILTIN, recipe="probe"))
    assert metrics["images"] == {"train": 36, "val": 18, "test": 9}
    folders = fine_tune(data, tmp_path / "folders", replace(BUILTIN, recipe="probe"))
    assert metrics["val_accuracy"] == folders["val_accuracy"]
    assert all(image.path.is_file() for image in load_run(tmp_path / "run")[1].images())


def test_a_finished_run_is_not_overwritten_unasked(run: Path, data: Path) -> None:
    """Another run into the same folder is refused and changes nothing, unless it is asked for."""
    before = (run / "run.json").read_bytes()
    with pytest.raises(CheckpointError, match="holds a run already; choose another --out, or say --overwrite"):
        fine_tune(data, run, BUILTIN)
    assert (run / "run.json").read_bytes() == before


def test_linked_images_are_found_where_they_are_linked(data: Path, tmp_path: Path) -> None:
    """Folders of links, as people make them who have no room for copies, make a run that can be exported."""
    for split in ("train", "val"):
        (tmp_path / "links" / split).mkdir(parents=True)
        for folder in (data / split).iterdir():
            (tmp_path / "links" / split / folder.name).symlink_to(folder)
    fine_tune(tmp_path / "links", tmp_path / "run", replace(BUILTIN, cut="head"))
    _, facts = load_run(tmp_path / "run")
    assert all(image.path.is_file() for image in facts.images())


def test_a_save_that_fails_leaves_no_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails between the files leaves neither the old run nor a mixture with the new one."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    network, facts = load_run(copy)
    flushed: list[int] = []

    def failing(descriptor: int) -> None:
        flushed.append(descriptor)
        if len(flushed) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", failing)  # the disk, which is not ours to fill
    with pytest.raises(OSError, match="No space left"):
        save_run(copy, network, facts, {})
    with pytest.raises(CheckpointError, match="holds no finished run"):
        load_run(copy)


def test_two_runs_into_one_folder_are_refused(data: Path, tmp_path: Path) -> None:
    """While one process tunes into a folder, another is refused; afterwards it is not."""
    with claimed(tmp_path / "run"), pytest.raises(CheckpointError, match="another process is tuning into"):
        fine_tune(data, tmp_path / "run", replace(BUILTIN, cut="head"))
    assert list((tmp_path / "run").iterdir()) == []
    fine_tune(data, tmp_path / "run", replace(BUILTIN, cut="head"))


def test_a_file_in_the_runs_place_is_refused(data: Path, tmp_path: Path) -> None:
    """A run cannot be made where a file is."""
    (tmp_path / "run").write_text("x")
    with pytest.raises(CheckpointError, match="cannot be a run's folder"):
        fine_tune(data, tmp_path / "run", replace(BUILTIN, cut="head"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"cut": "layer4"}, CheckpointError, "there is no block 'layer4'; cut at head, all or features.0"),
        ({"backbone": "resnet18"}, WeightsError, "builtin is for mobilenet_v3_small alone"),
        ({"weights": "missing.pth"}, WeightsError, "there is no file 'missing.pth'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(
    changes: dict[str, str], error: type[UnfreezeError], message: str, data: Path, tmp_path: Path
) -> None:
    """A wrong cut, backbone or file ends the run before its folder is made."""
    with pytest.raises(error, match=message):
        fine_tune(data, tmp_path / "run", replace(BUILTIN, **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_that_is_not_there_is_refused(data: Path, tmp_path: Path) -> None:
    """Asking for CUDA without a GPU is an error, not a slow run."""
    with pytest.raises(UnfreezeError, match="finds no usable NVIDIA GPU"):
        fine_tune(data, tmp_path / "run", replace(BUILTIN, device="cuda"))


def test_a_class_without_one_good_image_is_refused(tmp_path: Path) -> None:
    """If all images of a class turn out not to decode, the error names the class and the files."""
    folder = write_images(tmp_path / "data", 5)
    for file in (folder / "green").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no usable image of green(?s:.*)000.jpg"):
        fine_tune(folder, tmp_path / "run", BUILTIN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "--epochs goes from 1 to 10,000, found 0"),
        ({"batch_size": 1}, "--batch-size"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"val_fraction": 1.0}, "--val-fraction"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, float], message: str) -> None:
    """Each wrong value is named."""
    with pytest.raises(OptionsError, match=message):
        replace(BUILTIN, **changes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "run.json").unlink(), "holds no finished run: there is no run.json"),
        (lambda run: (run / "run.json").write_text("{"), "run.json"),
        (lambda run: (run / "run.json").write_text('{"labels": []}'), "run.json"),
        (lambda run: (run / "model.safetensors").write_bytes(b"x"), "is not what was tuned"),
        (lambda run: (run / "model.safetensors").unlink(), "is damaged"),
    ],
)
def test_damaged_runs_are_refused(damage: Callable[[Path], object], message: str, run: Path, tmp_path: Path) -> None:
    """Each way to damage a run's folder is a CheckpointError that says which file."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    damage(copy)
    with pytest.raises(CheckpointError, match=message):
        load_run(copy)
