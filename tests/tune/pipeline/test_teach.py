"""Whole runs with a teacher: what it makes better is kept and recorded, what it does not is the student's own run."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from support.cli import run_cli
from support.interrupted import Moment, stop_fork_server, tune_in_process

from unfreeze.contract.errors import CheckpointError, DataError, ModelError, OptionsError
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import Published, export_model
from unfreeze.tune.artifacts.checkpoint import load_run
from unfreeze.tune.cost.plan import plan
from unfreeze.tune.data.dataset import read_dataset
from unfreeze.tune.data.views import Views, load_view
from unfreeze.tune.device.distributed import Workers
from unfreeze.tune.evaluation.evaluate import evaluate
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.pipeline.prepare import check_distributed
from unfreeze.tune.pipeline.teacher import open_teacher
from unfreeze.tune.run import fine_tune

pytestmark = pytest.mark.xdist_group("tune-teach")

CPU = torch.device("cpu")
BIG = TuneOptions(backbone="support.tiny_networks:wide", weights="none", recipe="probe", device="cpu")
STUDENT = replace(BIG, backbone="support.tiny_networks:colorful", views=2, flip="no")
BLOCKS = replace(STUDENT, recipe="last-blocks", cut="2", learning_rate=1e-3, epochs=2)
HAZY = {"brown": (140, 110, 90), "gray": (115, 115, 115), "olive": (115, 125, 90)}


def write_hazy(folder: Path, per_class: int, seed: int, *, flat: bool = False) -> Path:
    """Write images of three similar colors, which vary so much that a few images do not tell them apart.

    Args:
        folder: gets a folder for each color.
        per_class: number of images.
        seed: of the images.
        flat: write them into the folder itself, without their color.
    """
    rng = np.random.default_rng(seed)
    for label, color in HAZY.items():
        target = folder if flat else folder / label
        target.mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            pixels = np.array(color) + rng.normal(0, 14, 3) + rng.normal(0, 20, (40, 48, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(target / f"{label}-{seed}-{number}.png")
    return folder


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> Iterator[None]:
    """The server that the processes are forked from is stopped in the end."""
    yield
    stop_fork_server()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training and eight validation images of each color."""
    folder = tmp_path_factory.mktemp("data") / "images"
    write_hazy(folder / "train", 12, 1)
    write_hazy(folder / "val", 8, 2)
    return folder


@pytest.fixture(scope="module")
def unlabeled(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images of each color without labels, a copy of a validation image, and a broken one."""
    folder = write_hazy(tmp_path_factory.mktemp("more"), 40, 3, flat=True)
    shutil.copy(next((data / "val").rglob("*.png")), folder / "copied.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 200 images of each color."""
    folder = tmp_path_factory.mktemp("teacher")
    write_hazy(folder / "images" / "train", 200, 4)
    write_hazy(folder / "images" / "val", 10, 5)
    fine_tune(folder / "images", folder / "big", BIG)
    return folder / "big"


@pytest.fixture(scope="module")
def random_teacher(teacher: Path) -> Path:
    """The same with random answers: the rows of its classifier are exchanged and enlarged."""
    run = shutil.copytree(teacher, teacher.parent / "random")
    weights = safetensors.torch.load_file(run / "model.safetensors")
    for key in [key for key in weights if key.endswith("linear.weight")]:
        weights[key] = 3 * torch.randn(weights[key].shape, generator=torch.Generator().manual_seed(0))
    safetensors.torch.save_file(weights, run / "model.safetensors")
    facts = json.loads((run / "run.json").read_text()) | {"weights_sha256": ""}
    (run / "run.json").write_text(json.dumps(facts))
    return run


@pytest.fixture(scope="module")
def exported(teacher: Path) -> Published:
    """The teacher as an exported model."""
    return export_model(teacher, teacher.parent / "models", "colors", ExportOptions(max_batch=16))


def _weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def _json(run: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / name).read_text())
    return found


def _recorded(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = _json(run, "run.json")["provenance"]["distillation"]
    return found


@pytest.mark.parametrize("options", [STUDENT, BLOCKS], ids=["probe", "last-blocks"])
def test_a_random_teacher_leaves_the_students_own_run(
    options: TuneOptions, data: Path, random_teacher: Path, unlabeled: Path, tmp_path: Path
) -> None:
    """The weights are those of the run without a teacher, bit for bit; the run says so everywhere."""
    fine_tune(data, tmp_path / "own", options)
    taught = replace(options, teacher=str(random_teacher), unlabeled=str(unlabeled))
    metrics = fine_tune(data, tmp_path / "taught", taught)
    assert _weights(tmp_path / "taught") == _weights(tmp_path / "own")
    assert metrics["distillation"]["kept"] is False
    assert metrics["distillation"]["own"]["accuracy"] > metrics["distillation"]["taught"]["accuracy"] - 0.05
    assert any(one["kind"] == "teacher" and "not followed" in one["text"] for one in metrics["findings"])
    assert "teacher" in {one["kind"] for one in _json(tmp_path / "taught", "findings.json")["findings"]}
    recorded = _recorded(tmp_path / "taught")
    assert (recorded["kept"], recorded["name"], recorded["unlabeled_images"]) == (False, "random", 120)
    assert recorded["own_accuracy"] == metrics["distillation"]["own"]["accuracy"]
    assert _recorded(tmp_path / "own") is None


@pytest.mark.parametrize("options", [STUDENT, BLOCKS], ids=["probe", "last-blocks"])
def test_a_good_teacher_is_followed_and_recorded(
    options: TuneOptions, data: Path, teacher: Path, unlabeled: Path, tmp_path: Path
) -> None:
    """The weights differ from the student's own; teacher, setting, images and both scores are recorded."""
    taught = replace(options, teacher=str(teacher), unlabeled=str(unlabeled), temperature=2.0, teacher_weight=0.9)
    metrics = fine_tune(data, tmp_path / "taught", taught)
    fine_tune(data, tmp_path / "own", options)
    found, recorded = metrics["distillation"], _recorded(tmp_path / "taught")
    assert found["kept"], found["reason"]
    assert _weights(tmp_path / "taught") != _weights(tmp_path / "own")
    assert recorded == {key: found[key] for key in recorded}
    assert (recorded["name"], recorded["temperature"], recorded["weight"]) == ("big", 2.0, 0.9)
    assert recorded["sha256"] == _json(teacher, "run.json")["weights_sha256"]
    assert recorded["unlabeled_images"] == 120
    assert found["own"]["standard_error"] > 0
    assert found["taught"]["log_loss"] < found["own"]["log_loss"]
    assert "taught at temperature 2 with weight 0.9 beats its own tuning" in metrics["reason"]
    kinds = {one["kind"]: one["paths"] for one in metrics["findings"]}
    assert [path.partition(" =")[0] for path in kinds["unlabeled-copies"]] == ["copied.png"]
    assert kinds["unlabeled-undecodable"][0].startswith("broken.png (")


def test_a_second_run_asks_the_teacher_nothing(data: Path, teacher: Path, unlabeled: Path, tmp_path: Path) -> None:
    """All answers come from the feature store, with the same result; it is asked about new images alone."""
    options = replace(STUDENT, teacher=str(teacher), temperature=2.0, teacher_weight=0.9)
    asked = [
        fine_tune(data, tmp_path / name, replace(options, **more))["distillation"]["asked_images"]
        for name, more in (("one", {}), ("two", {}), ("three", {"unlabeled": str(unlabeled)}))
    ]
    assert asked == [36, 0, 120]
    assert _weights(tmp_path / "one") == _weights(tmp_path / "two")


def test_a_run_and_its_export_answer_alike(teacher: Path, exported: Published) -> None:
    """With the calibrated probabilities of the network, as logarithms; a version is found by its folder."""
    dataset = read_dataset(teacher.parent / "images")
    own, _ = open_teacher(teacher, dataset, CPU)
    model, _ = open_teacher(exported.path.parent.parent, dataset, CPU)
    network, facts = load_run(teacher)
    evaluation = evaluate(network, dataset.splits["val"], facts.preprocess, CPU)
    pixels = np.stack([load_view(image, Views(spec=own.spec), 0) for image in evaluation.images[:4]])
    expected = evaluation.probabilities(facts.temperature)[:4]
    assert np.exp(own.answer(pixels)) == pytest.approx(expected, abs=1e-5)
    assert np.exp(model.answer(pixels)) == pytest.approx(expected, abs=1e-3)
    assert (own.identity.name, own.identity.version) == ("big", "")
    assert (model.identity.name, model.identity.version) == ("colors", "1")
    assert model.identity.sha256 == exported.manifest.sha256


def test_an_exported_student_names_its_teacher(data: Path, exported: Published, tmp_path: Path) -> None:
    """Taught by an exported model: its name, version and seal are in the manifest, the model card and `info`."""
    options = replace(STUDENT, teacher=str(exported.path.parent), temperature=2.0, teacher_weight=0.5)
    metrics = fine_tune(data, tmp_path / "run", options)
    published = export_model(tmp_path / "run", tmp_path / "models", "small", ExportOptions(max_batch=2))
    found = published.manifest.provenance.distillation
    assert found is not None
    assert (found.name, found.version, found.sha256) == ("colors", "1", exported.manifest.sha256)
    assert (found.kept, found.temperature, found.weight) == (metrics["distillation"]["kept"], 2.0, 0.5)
    card = (published.path.parent / "MODEL_CARD.md").read_text()
    assert f"teacher colors version 1, SHA-256 {exported.manifest.sha256}: " in card
    assert "temperature 2, weight 0.5, 0 images without labels" in card
    assert "colors version 1" in run_cli("info", published.path).stdout


def test_the_teacher_may_know_validation_images(teacher: Path, tmp_path: Path) -> None:
    """Those of the same data that it was not validated on are reported, and that it knows the training images."""
    folder = shutil.copytree(teacher.parent / "images", tmp_path / "images")
    run = shutil.copytree(teacher, tmp_path / "run")
    facts = _json(run, "run.json") | {"data": str(folder)}
    (run / "run.json").write_text(json.dumps(facts))
    (known,) = open_teacher(run, read_dataset(folder), CPU)[1]
    assert (known.kind, known.count, known.handled) == ("teacher-training", 600, True)
    next((folder / "train" / "gray").iterdir()).rename(folder / "val" / "gray" / "moved.png")
    found, _ = open_teacher(run, read_dataset(folder), CPU)[1]
    assert (found.kind, found.paths) == ("teacher-validation", ("val/gray/moved.png",))


def test_resuming_needs_the_same_teacher(
    data: Path, teacher: Path, random_teacher: Path, unlabeled: Path, tmp_path: Path
) -> None:
    """Killed in every stage and resumed, also from another place, a run ends in the same weights."""
    options = replace(
        BLOCKS, teacher=str(teacher), unlabeled=str(unlabeled), temperature=2.0, teacher_weight=0.9, epochs=3
    )
    assert tune_in_process(data, tmp_path / "whole", options) == 0
    moments = Moment(progress="asking"), Moment(writing="teaching.pt", step=1), Moment(progress="training last", step=1)
    for number, moment in enumerate(moments):
        assert tune_in_process(data, tmp_path / "run", options, moment, resume=number > 0) == -9, moment
    for changed, message in (
        ({"teacher": str(random_teacher)}, r"teacher was big \(support.tiny_networks:wide\), [0-9a-f]{64}, is random"),
        ({"unlabeled": None}, r"unlabeled was 120 images, [0-9a-f]{16}, is missing"),
    ):
        with pytest.raises(CheckpointError, match=message):
            fine_tune(data, tmp_path / "run", replace(options, **changed), resume=True)
    moved = shutil.copytree(teacher, tmp_path / "elsewhere" / "big")
    assert tune_in_process(data, tmp_path / "run", replace(options, teacher=str(moved)), resume=True) == 0
    assert _weights(tmp_path / "run") == _weights(tmp_path / "whole")
    assert _recorded(tmp_path / "run")["kept"]


def test_early_stopping_and_mixup_work_with_a_teacher(
    data: Path, teacher: Path, unlabeled: Path, tmp_path: Path
) -> None:
    """A tenth of the labeled images is held out; images without labels are mixed with the others."""
    options = replace(BLOCKS, teacher=str(teacher), unlabeled=str(unlabeled), temperature=2.0, teacher_weight=0.9)
    metrics = fine_tune(data, tmp_path / "run", replace(options, patience=2, mixup=0.2, class_weights="balanced"))
    assert metrics["distillation"]["kept"]
    assert all(epoch["held_out_loss"] > 0 for epoch in metrics["epochs"])


@pytest.fixture
def refused(data: Path, tmp_path: Path) -> Callable[..., str]:
    """Run `unfreeze tune` with options that it refuses; returns the message."""

    def run(*arguments: object) -> str:
        backbone = "--backbone", STUDENT.backbone, "--weights", "none", "--recipe", "probe"
        done = run_cli("tune", data, "--out", tmp_path / "run", *backbone, *arguments)
        assert done.returncode in {1, 2}
        assert not (tmp_path / "run").exists()
        return " ".join(done.stderr.split())

    return run


def test_the_command_line_refuses_what_cannot_be_taught(
    refused: Callable[..., str], data: Path, teacher: Path, tmp_path: Path
) -> None:
    """Each message says what was found and what to do; nothing is written."""
    assert "--unlabeled needs --teacher" in refused("--unlabeled", data)
    assert "--teacher is empty; give a path, or leave it out" in refused("--teacher", "")
    assert "--unlabeled is empty" in refused("--teacher", teacher, "--unlabeled", "")
    assert "--temperature, --teacher-weight needs --teacher" in refused("--temperature", 2, "--teacher-weight", 0.5)
    assert "neither the folder of a finished run, nor a model.onnx" in refused("--teacher", tmp_path / "none")
    assert "more is not a folder" in refused("--teacher", teacher, "--unlabeled", tmp_path / "more")
    other = _json(teacher, "run.json") | {"labels": ["brown", "gray", "Olive"]}
    run = shutil.copytree(teacher, tmp_path / "other")
    (run / "run.json").write_text(json.dumps(other))
    message = refused("--teacher", run)
    assert "the teacher lacks olive (differs only in spelling from 'Olive'); the images lack Olive" in message


@pytest.mark.parametrize("recipe", ["one-vs-rest", "svm", "scratch"])
def test_recipes_that_cannot_be_taught_are_refused(recipe: str) -> None:
    """One classifier per class has no softmax, and random weights cannot be judged by short trials."""
    with pytest.raises(
        OptionsError, match=rf"--recipe {recipe} cannot be combined with --teacher, .* use --recipe auto, probe"
    ):
        TuneOptions(recipe=recipe, teacher="big")


def test_several_processes_are_refused() -> None:
    """By torchrun as by Ray Train."""
    with pytest.raises(CheckpointError, match="distributed training does not support --teacher"):
        check_distributed(replace(BLOCKS, teacher="big"), Workers(count=2))


def test_other_commands_refuse_a_teacher(data: Path) -> None:
    """They would ignore it."""
    with pytest.raises(OptionsError, match="the cost of asking a teacher is not estimated: leave out --teacher"):
        plan(replace(STUDENT, teacher="big"))
    done = run_cli("features", data, "--backbone", STUDENT.backbone, "--weights", "none", "--teacher", "big")
    assert (done.returncode, "--teacher is for tune" in done.stderr) == (2, True)


def test_a_teacher_must_be_a_model(data: Path, teacher: Path, tmp_path: Path) -> None:
    """A damaged run and a file that is no exported model are refused."""
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"model\.onnx has no"):
        open_teacher(tmp_path / "model.onnx", read_dataset(data), CPU)
    broken = shutil.copytree(teacher, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="was changed after tuning"):
        open_teacher(broken, read_dataset(data), CPU)
    write_hazy(tmp_path / "data" / "train", 1, 1)
    (tmp_path / "data" / "train" / "gray").rename(tmp_path / "data" / "train" / "grey")
    shutil.copytree(tmp_path / "data" / "train", tmp_path / "data" / "val")
    other = read_dataset(tmp_path / "data")
    with pytest.raises(DataError, match="the teacher lacks grey; the images lack gray"):
        open_teacher(teacher, other, CPU)
