"""Whole tuning runs on real files."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from support.images import write_images

from unfreeze.contract.errors import CheckpointError, DataError, OptionsError, UnfreezeError, WeightsError
from unfreeze.contract.images.preprocess import prepare
from unfreeze.tune.artifacts.checkpoint import load_run, save_run
from unfreeze.tune.artifacts.run_folder import locked_folder
from unfreeze.tune.backbones.weights import load_pretrained
from unfreeze.tune.evaluation.evaluate import evaluate
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.recipes.registry import recipe_names
from unfreeze.tune.run import fine_tune

pytestmark = pytest.mark.xdist_group("tune-run")

OPTIONS = TuneOptions(backbone="mobilenet_v3_small", weights="builtin", device="cpu", epochs=2, views=2, batch_size=16)
PROBE = replace(OPTIONS, recipe="probe")


class RecordingReporter:
    """A reporter that records messages and progress."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.progress: dict[str, list[int]] = {}

    def info(self, text: str) -> None:
        """Record a message."""
        self.messages.append(text)

    def track(self, what: str, total: int) -> Callable[[int], None]:
        """Record the steps that are done."""
        steps_done = self.progress[what] = [0, total]

        def advance(steps: int) -> None:
            steps_done[0] += steps

        return advance


def _metrics(run: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return metrics


def _weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def _changed_blocks(run: Path) -> set[str]:
    """Return the numbers of the blocks whose weights differ from the pretrained ones."""
    pretrained = load_pretrained("mobilenet_v3_small", "builtin").model.state_dict()
    tuned = load_run(run)[0].model.state_dict()
    return {key.split(".")[1] for key, value in tuned.items() if not torch.equal(value, pretrained[key])}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train, val and test folders of three colors, with one file in train and one in val that cannot be decoded."""
    folder = tmp_path_factory.mktemp("data")
    for split, count, seed in (("train", 8, 0), ("val", 6, 5000), ("test", 2, 9000)):
        write_images(folder / split, count, seed)
    (folder / "train" / "red" / "broken.jpg").write_bytes(b"no image")
    (folder / "val" / "blue" / "broken.png").write_bytes(b"")
    (folder / "train" / "red" / "notes.txt").write_text("x")
    return folder


@pytest.fixture(scope="module")
def reporter() -> RecordingReporter:
    """What the run below reports."""
    return RecordingReporter()


@pytest.fixture(scope="module")
def run(data: Path, reporter: RecordingReporter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that tunes the last two blocks."""
    out = tmp_path_factory.mktemp("run") / "deep" / "run"
    options = replace(OPTIONS, cut="features.11", learning_rate=5e-4, abstain_precision=0.6)
    fine_tune(data, out, options, reporter)
    return out


@pytest.fixture(scope="module")
def run_of(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runs by recipe, each of which is made once."""

    @cache
    def tuned(recipe: str) -> Path:
        out = tmp_path_factory.mktemp(recipe) / "run"
        cut = "features.12" if recipe == "last-blocks" else "auto"
        fine_tune(data, out, replace(OPTIONS, recipe=recipe, cut=cut, learning_rate=5e-4, epochs=1))
        return out

    return tuned


def test_a_run_contains_weights_facts_and_metrics_but_no_pickle(run: Path, data: Path) -> None:
    """The folder contains safetensors, JSON and TensorBoard events; the metrics describe data, choice and training."""
    assert {path.name for path in run.iterdir()} == {
        "model.safetensors",
        "run.json",
        "metrics.json",
        "findings.json",
        "predictions.csv",
        "label_issues.csv",
        "embedding.npz",
        "epochs.jsonl",
        "tensorboard",
    }
    metrics = _metrics(run)
    assert metrics["val_accuracy"] >= 0.5  # the built-in weights ignore color; chance is 0.33
    assert metrics["labels"] == ["blue", "green", "red"]
    assert metrics["images"] == {"train": 24, "val": 18, "test": 6}
    assert {Path(item["path"]).relative_to(data).as_posix() for item in metrics["skipped"]} == {
        "train/red/broken.jpg",
        "val/blue/broken.png",
        "train/red/notes.txt",
    }
    assert metrics["backbone"] == "torchvision/mobilenet_v3_small"
    assert metrics["seconds"] > 0
    assert (metrics["batch_size"], metrics["flipped"], metrics["candidates"]) == (16, False, [])
    assert metrics["metric"] == "accuracy"
    assert (metrics["recipe"], metrics["cut"], metrics["learning_rate"]) == ("last-blocks", "features.11", 5e-4)
    assert metrics["reason"] == "last-blocks from features.11 at learning rate 0.0005: as requested"
    assert [epoch["number"] for epoch in metrics["epochs"]] == [1, 2]
    lines = (run / "epochs.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == metrics["epochs"]
    kinds = {finding["kind"]: finding["count"] for finding in metrics["findings"]}
    assert kinds == {"undecodable": 2, "skipped": 1}
    assert metrics["abstain"]["requested_precision"] == 0.6
    assert load_run(run)[1].abstain_below == metrics["abstain"]["threshold"]
    assert safetensors.torch.load_file(run / "model.safetensors")


def test_reports_every_step_to_its_end(run: Path, reporter: RecordingReporter) -> None:
    """All progress is completed, and the messages name classes and images."""
    assert run.exists()
    assert "3 classes; images: 25 train, 19 val, 6 test; 1 file skipped" in reporter.messages
    training = "training last-blocks from features.11 at learning rate 0.0005"
    assert {"inspecting the images", "running the backbone over the training images", training} <= set(
        reporter.progress
    )
    for what, (done, total) in reporter.progress.items():
        assert done == total, what


def test_a_loaded_run_has_the_reported_accuracy(run: Path, data: Path) -> None:
    """The loaded network classifies the validation images with the accuracy in the metrics."""
    network, facts = load_run(run)
    files = facts.images()
    assert len(files) == 18
    assert all(image.path.is_relative_to(data / "val") for image in files)
    pixels = np.stack([prepare(image.path.read_bytes(), facts.preprocess) for image in files])
    with torch.inference_mode():
        found = network(torch.from_numpy(pixels)).argmax(1).numpy()
    labels = np.array([image.label for image in files])
    assert (found == labels).mean() == _metrics(run)["val_accuracy"]
    assert facts.provenance.weights == "builtin"
    assert len(facts.provenance.weights_sha256) == 64


def test_training_changes_only_blocks_behind_the_cut(run: Path) -> None:
    """The two blocks behind the cut are trained; those before it keep their pretrained weights."""
    assert _changed_blocks(run) == {"11", "12"}


def test_equal_seeds_give_equal_runs(data: Path, tmp_path: Path) -> None:
    """With everything chosen by cross-validation, two runs have the same weights and the same evidence."""
    for name in ("one", "two"):
        fine_tune(data, tmp_path / name, OPTIONS)
    assert _weights(tmp_path / "one") == _weights(tmp_path / "two")
    metrics = [_metrics(tmp_path / name) for name in ("one", "two")]
    for key in ("survey", "candidates", "reason", "epochs", "val_accuracy"):
        assert metrics[0][key] == metrics[1][key], key
    assert [depth["cut"] for depth in metrics[0]["survey"]][-2:] == ["features.12", "head"]
    assert [score["recipe"] for score in metrics[0]["candidates"]][:3] == ["probe", "one-vs-rest", "svm"]
    assert sum(score["chosen"] for score in metrics[0]["candidates"]) == 1


def test_chooses_the_learning_rate_of_a_requested_cut(data: Path, tmp_path: Path) -> None:
    """With --cut and without --learning-rate, two learning rates are compared at this cut."""
    metrics = fine_tune(data, tmp_path / "run", replace(OPTIONS, cut="features.12"))
    tried = {(score["recipe"], score["cut"], score["learning_rate"]) for score in metrics["candidates"]}
    assert tried == {("last-blocks", "features.12", 5e-4), ("last-blocks", "features.12", 3e-3)}
    (chosen,) = (score for score in metrics["candidates"] if score["chosen"])
    assert metrics["learning_rate"] == chosen["learning_rate"]
    assert [epoch["number"] for epoch in metrics["epochs"]] == [1, 2]


@pytest.mark.parametrize("recipe", [name for name in recipe_names() if name != "lora"])  # needs an attention
def test_every_recipe_makes_a_run_with_the_reported_accuracy(recipe: str, run_of: Callable[[str], Path]) -> None:
    """A recipe trains the blocks that its name says, and the loaded run has the accuracy in the metrics."""
    run = run_of(recipe)
    metrics = _metrics(run)
    assert metrics["recipe"] == recipe
    network, facts = load_run(run)
    evaluation = evaluate(network, facts.images(), facts.preprocess, torch.device("cpu"))
    assert evaluation.accuracy == metrics["val_accuracy"]
    assert evaluation.probabilities(facts.temperature).sum(1) == pytest.approx(1, abs=1e-5)
    assert facts.link == ("sigmoid" if recipe in ("one-vs-rest", "svm") else "softmax")
    every = {str(number) for number in range(13)}
    expected = {"last-blocks": {"12"}, "stem-head": {"0"}, "all": every, "scratch": every}
    assert _changed_blocks(run) == expected.get(recipe, set())


def test_reports_training_that_ends_below_the_probe(data: Path, tmp_path: Path) -> None:
    """A requested recipe is used even if the probe is more accurate, which a message says."""
    reporter = RecordingReporter()
    destructive = replace(OPTIONS, cut="all", learning_rate=0.3, epochs=1)
    metrics = fine_tune(data, tmp_path / "run", destructive, reporter)
    assert metrics["val_accuracy"] < metrics["probe_val_accuracy"]
    assert "validation accuracy is lower than that of the probe alone" in " ".join(reporter.messages)


def test_imbalanced_classes_are_compared_and_reported_by_balanced_accuracy(tmp_path: Path) -> None:
    """23 images against 2: candidates are compared by balanced accuracy, which is reported with its standard error."""
    data, reporter = tmp_path / "data", RecordingReporter()
    for split, count in (("train", 23), ("val", 6), ("test", 6)):
        write_images(data / split, count, first_seed=100 * count)
        for image in sorted((data / split / "green").iterdir())[2:]:
            image.unlink()
    options = replace(OPTIONS, cut="features.12", epochs=1, views=1)
    metrics = fine_tune(data, tmp_path / "run", options, reporter)
    assert metrics["metric"] == "balanced"
    assert (
        "classes differ much in size, so candidates are compared by balanced accuracy (--metric)" in reporter.messages
    )
    recalls = [metrics["per_class"][label]["recall"] for label in ("blue", "green", "red")]
    assert metrics["val_balanced_accuracy"] == pytest.approx(sum(recalls) / 3)
    variances = [recall * (1 - recall) / (count - 1) for recall, count in zip(recalls, (6, 2, 6), strict=True)]
    assert metrics["standard_errors"]["val_balanced_accuracy"] == pytest.approx(sum(variances) ** 0.5 / 3)
    splits = ("val", "probe_val", "test")
    names = {f"{split}_{name}" for split in splits for name in ("accuracy", "balanced_accuracy")}
    assert set(metrics["standard_errors"]) == names
    assert load_run(tmp_path / "run")[1].metrics == {name: metrics[name] for name in (*names, "temperature")}
    for score in metrics["candidates"]:
        assert 0 <= score["balanced_accuracy"] <= 1
        assert f"{score['balanced_accuracy']:.3f}" in metrics["reason"]


def test_does_not_choose_harmful_training(data: Path, tmp_path: Path) -> None:
    """If every step destroys the features, a recipe that trains no block is chosen."""
    metrics = fine_tune(data, tmp_path / "run", replace(OPTIONS, learning_rate=10.0, epochs=1))
    assert metrics["recipe"] in ("probe", "one-vs-rest", "svm")
    assert metrics["val_accuracy"] == metrics["probe_val_accuracy"]
    assert _changed_blocks(tmp_path / "run") == set()


def test_strict_rejects_a_dataset_with_problems(data: Path, tmp_path: Path) -> None:
    """With --strict, findings that are otherwise only reported end the run before any work."""
    with pytest.raises(DataError, match=r"2 files cannot be decoded(?s:.*)1 file was found and is not used"):
        fine_tune(data, tmp_path / "run", replace(OPTIONS, strict=True))


@pytest.mark.parametrize(("cache_gb", "cached", "others"), [(1e-6, "0 images", 24), (1e-4, "10 images", 14)])
def test_activations_over_the_memory_limit_give_the_same_weights(
    cache_gb: float, cached: str, others: int, run: Path, data: Path, tmp_path: Path
) -> None:
    """Without a cache, or with one for a part of the images, a message says so, and the weights are the same."""
    reporter = RecordingReporter()
    options = replace(OPTIONS, cut="features.11", learning_rate=5e-4, cache_gb=cache_gb)
    fine_tune(data, tmp_path / "run", options, reporter)
    assert (
        f"holds: those of {cached} are cached; {others} are decoded and run through the frozen blocks again in every "
        "epoch"
    ) in " ".join(reporter.messages)
    assert _weights(tmp_path / "run") == _weights(run)


def test_a_csv_file_gives_the_same_run_as_folders(run_of: Callable[[str], Path], data: Path, tmp_path: Path) -> None:
    """A CSV file with the same labels and splits gives the same accuracy, and its images are found again."""
    rows = [
        f"{path.absolute()},{path.parent.name},{path.parent.parent.name}"
        for path in sorted(data.rglob("*.jpg"))
        if "broken" not in path.name
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    metrics = fine_tune(tmp_path / "labels.csv", tmp_path / "run", PROBE)
    assert metrics["images"] == {"train": 24, "val": 18, "test": 6}
    assert metrics["val_accuracy"] == _metrics(run_of("probe"))["val_accuracy"]
    assert all(image.path.is_file() for image in load_run(tmp_path / "run")[1].images())


def test_does_not_overwrite_a_finished_run(run: Path, data: Path) -> None:
    """Without --overwrite, another run in the same folder is rejected and changes nothing."""
    before = (run / "run.json").read_bytes()
    with pytest.raises(CheckpointError, match="already contains a run; choose another --out, or use --overwrite"):
        fine_tune(data, run, PROBE)
    assert (run / "run.json").read_bytes() == before


def test_finds_images_through_links(data: Path, tmp_path: Path) -> None:
    """A dataset of linked folders makes a run whose images are found again."""
    for split in ("train", "val"):
        (tmp_path / "links" / split).mkdir(parents=True)
        for folder in (data / split).iterdir():
            (tmp_path / "links" / split / folder.name).symlink_to(folder)
    fine_tune(tmp_path / "links", tmp_path / "run", PROBE)
    _, facts = load_run(tmp_path / "run")
    assert all(image.path.is_file() for image in facts.images())


def test_a_failed_save_leaves_no_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk fails between two files, neither the old run nor a mixture of both remains."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    network, facts = load_run(copy)
    flushed: list[int] = []

    def failing(descriptor: int) -> None:
        flushed.append(descriptor)
        if len(flushed) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", failing)  # stands for a full disk
    with pytest.raises(OSError, match="No space left"):
        save_run(copy, network, facts, {})
    with pytest.raises(CheckpointError, match="contains no finished run"):
        load_run(copy)


def test_rejects_two_runs_in_one_folder(data: Path, tmp_path: Path) -> None:
    """A folder is locked while another process writes a run to it, and not afterwards."""
    with locked_folder(tmp_path / "run"), pytest.raises(CheckpointError, match="another process is writing a run to"):
        fine_tune(data, tmp_path / "run", PROBE)
    assert list((tmp_path / "run").iterdir()) == []
    fine_tune(data, tmp_path / "run", PROBE)


def test_rejects_a_file_as_the_run_folder(data: Path, tmp_path: Path) -> None:
    """The run's folder cannot be created if there is a file of its name."""
    (tmp_path / "run").write_text("x")
    with pytest.raises(CheckpointError, match="cannot be a run's folder"):
        fine_tune(data, tmp_path / "run", PROBE)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"cut": "layer4"},
            CheckpointError,
            "no block 'layer4'; --cut must be head, all or one of features.0",
        ),
        ({"backbone": "resnet18"}, WeightsError, "builtin exists for mobilenet_v3_small only"),
        ({"weights": "missing.pth"}, WeightsError, "there is no file 'missing.pth'"),
    ],
)
def test_rejects_impossible_options_before_any_work(
    changes: dict[str, str], error: type[UnfreezeError], message: str, data: Path, tmp_path: Path
) -> None:
    """A wrong cut, backbone or file ends the run before its folder is created."""
    with pytest.raises(error, match=message):
        fine_tune(data, tmp_path / "run", replace(OPTIONS, **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_rejects_cuda_without_a_gpu(data: Path, tmp_path: Path) -> None:
    """`--device cuda` without a GPU is an error rather than a slow run."""
    with pytest.raises(UnfreezeError, match="found no usable GPU"):
        fine_tune(data, tmp_path / "run", replace(OPTIONS, device="cuda"))


def test_rejects_a_class_without_a_usable_image(tmp_path: Path) -> None:
    """If no image of a class can be decoded, the error names the class and the files."""
    folder = write_images(tmp_path / "data", 5)
    for file in (folder / "green").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no usable image of green(?s:.*)000.jpg"):
        fine_tune(folder, tmp_path / "run", OPTIONS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "--epochs must be between 1 and 10,000, got 0"),
        ({"batch_size": 1}, "--batch-size"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"val_fraction": 1.0}, "--val-fraction"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_rejects_options_out_of_range(changes: dict[str, float], message: str) -> None:
    """The message names the option."""
    with pytest.raises(OptionsError, match=message):
        replace(OPTIONS, **changes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "run.json").unlink(), "contains no finished run: there is no run.json"),
        (lambda run: (run / "run.json").write_text("{"), "run.json"),
        (lambda run: (run / "run.json").write_text('{"labels": []}'), "run.json"),
        (lambda run: (run / "model.safetensors").write_bytes(b"x"), "was changed after tuning"),
        (lambda run: (run / "model.safetensors").unlink(), "is damaged"),
    ],
)
def test_rejects_damaged_runs(damage: Callable[[Path], object], message: str, run: Path, tmp_path: Path) -> None:
    """Every kind of damage is a CheckpointError that names the file."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    damage(copy)
    with pytest.raises(CheckpointError, match=message):
        load_run(copy)
