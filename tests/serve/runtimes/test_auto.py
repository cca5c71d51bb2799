"""`auto`: which runtime it takes, what it refuses, and the file in which it keeps its choice."""

import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.cli import run_cli
from support.runs import write_run
from support.servers import server_thread

import unfreeze
from unfreeze.batch.model import read_job_model
from unfreeze.contract.errors import ModelError
from unfreeze.contract.model.model_file import ModelFile, read_model
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import Published, export_model
from unfreeze.serve.models.loading import load
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.runtimes.auto import open_fastest
from unfreeze.serve.runtimes.base import RuntimeOptions
from unfreeze.serve.runtimes.openvino_library import supports_bfloat16
from unfreeze.serve.runtimes.registry import open_runtime
from unfreeze.serve.scheduling.execution_plan import ExecutionPlan

pytestmark = pytest.mark.xdist_group("serve")
needs_bfloat16 = pytest.mark.skipif(not supports_bfloat16(), reason="OpenVINO has no bfloat16 for this CPU")
OPTIONS = RuntimeOptions(threads=1)


@pytest.fixture(scope="module")
def model(published: Published) -> ModelFile:
    """A model whose golden images all runtimes classify as exported."""
    return read_model(published.path)


@pytest.fixture(scope="module")
def certain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose logits are so large that bfloat16 changes logarithms of probabilities by more than 0.5."""
    folder = tmp_path_factory.mktemp("certain")
    return export_model(write_run(folder, temperature=0.02), folder / "models", "certain").path


def _measured(**speeds: float) -> Callable[..., float]:
    """Return a clock that reports the speed of a runtime by its class and tolerance."""

    def measure(run: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray, _instances: int) -> float:
        runtime = run.__self__
        assert run(pixels).shape == (len(pixels), 3)
        if type(runtime).__name__ == "OnnxRuntime":
            return speeds["cpu"]
        return speeds["bf16" if runtime.golden_tolerance else "openvino"]

    return measure


def _never(*_: object) -> float:
    pytest.fail("measured again")


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "runtimes").glob("*"))


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        ({"cpu": 100.0, "openvino": 104.0, "bf16": 90.0}, "cpu"),
        ({"cpu": 100.0, "openvino": 106.0, "bf16": 90.0}, "openvino"),
        pytest.param({"cpu": 100.0, "openvino": 106.0, "bf16": 107.0}, "openvino-bf16", marks=needs_bfloat16),
        ({"cpu": 100.0, "openvino": 50.0, "bf16": 50.0}, "cpu"),
    ],
)
def test_another_runtime_must_be_faster_by_five_percent(
    model: ModelFile, speeds: dict[str, float], expected: str
) -> None:
    """Than ONNX Runtime; of the others, the fastest is taken."""
    assert open_fastest(model, OPTIONS, _measured(**speeds)).name == expected


def test_the_faster_runtime_is_found_by_measuring(tmp_path: Path) -> None:
    """ONNX Runtime converts float16 back and forth on a CPU: OpenVINO computes in float32, several times faster."""
    run = write_run(tmp_path)
    path = export_model(run, tmp_path / "models", "half", ExportOptions(precision="fp16", max_drop=100)).path
    opened = open_fastest(read_model(path), OPTIONS)
    assert opened.name.startswith("openvino")


@needs_bfloat16
def test_bfloat16_is_refused_where_golden_images_fail(certain: Path, cache_folder: Path) -> None:
    """However fast it is; the choice says why."""
    with pytest.raises(ModelError, match=r"a log-probability differs by .* \(tolerance 0\.5\)"):
        open_runtime(certain, "openvino-bf16")
    opened = open_fastest(read_model(certain), OPTIONS, _measured(cpu=10.0, openvino=20.0, bf16=1000.0))
    assert opened.name == "openvino"
    (file,) = _files(cache_folder)
    choice = json.loads(file.read_text())
    assert choice["images_per_second"] == {"cpu": pytest.approx(10.0), "openvino": pytest.approx(20.0)}
    assert "golden image" in choice["refused"]["openvino-bf16"]


def test_a_model_without_golden_images_stays_with_onnx_runtime(model: ModelFile) -> None:
    """Nothing shows that another runtime would give its answers."""
    bare = replace(model, manifest=replace(model.manifest, golden=()))
    assert open_fastest(bare, OPTIONS, _never).name == "cpu"


def test_the_choice_is_kept(model: ModelFile, cache_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A restart does not measure again; the log has the figures both times."""
    caplog.set_level(logging.INFO)
    for measure in (_measured(cpu=100.0, openvino=200.0, bf16=1.0), _never):
        caplog.clear()
        assert open_fastest(model, OPTIONS, measure).name == "openvino"
        assert "openvino; cpu 100.0 images/s, openvino 200.0 images/s" in caplog.text
    assert len(_files(cache_folder)) == 1


@pytest.mark.parametrize(
    "other", [RuntimeOptions(threads=2), RuntimeOptions(threads=1, instances=2), RuntimeOptions(threads=1, max_batch=1)]
)
def test_other_conditions_are_measured_anew(model: ModelFile, other: RuntimeOptions) -> None:
    """The choice for one thread says nothing about two threads, two instances, or single images."""
    open_fastest(model, OPTIONS, _measured(cpu=100.0, openvino=200.0, bf16=1.0))
    assert open_fastest(model, other, _measured(cpu=300.0, openvino=200.0, bf16=1.0)).name == "cpu"


@pytest.mark.parametrize(
    "damaged",
    [
        lambda _: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"runtime": "openvino"', '"runtime": "nonsense"'),
        lambda text: text.replace('"batch": 8', '"batch": 4'),
        lambda text: text.replace('"threads": 1', '"threads": "1"'),
        lambda _: "[" * 100_000,
    ],
    ids=["empty", "cut off", "unknown runtime", "other conditions", "other type", "nested"],
)
def test_a_damaged_choice_is_ignored(model: ModelFile, cache_folder: Path, damaged: Callable[[str], str]) -> None:
    """It is measured again, and the file is replaced."""
    open_fastest(model, OPTIONS, _measured(cpu=100.0, openvino=200.0, bf16=1.0))
    (file,) = _files(cache_folder)
    before = file.read_text()
    file.write_text(damaged(before))
    assert file.read_text() != before
    assert open_fastest(model, OPTIONS, _measured(cpu=300.0, openvino=200.0, bf16=1.0)).name == "cpu"
    assert json.loads(file.read_text())["runtime"] == "cpu"


@pytest.mark.skipif(os.name != "posix", reason="a file where a folder is needed")
def test_a_choice_that_cannot_be_kept_is_used(
    model: ModelFile, cache_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And logged: the next start measures again."""
    (cache_folder / "runtimes").write_text("")
    assert open_fastest(model, OPTIONS, _measured(cpu=100.0, openvino=200.0, bf16=1.0)).name == "openvino"
    assert "cannot be kept" in caplog.text


def test_a_server_chooses_and_says_so(
    published: Published, images: list[bytes], caplog: pytest.LogCaptureFixture, cache_folder: Path
) -> None:
    """`--device auto`: clients get the labels of ONNX Runtime, and the log names the runtime and its figures."""
    caplog.set_level(logging.INFO)
    with (
        server_thread(published.path.parents[2], device="auto", threads=1) as target,
        unfreeze.Client(target) as client,
        unfreeze.load_model(published.path) as local,
    ):
        found, expected = client.predict(images), local.predict(images)
    assert [one[0].label for one in found] == [one[0].label for one in expected]
    np.testing.assert_allclose([one[0].score for one in found], [one[0].score for one in expected], atol=0.05)
    (file,) = _files(cache_folder)
    chosen = json.loads(file.read_text())["runtime"]
    assert f"loaded model colors version 1 on {chosen} in" in caplog.text
    assert "images/s" in caplog.text


@needs_bfloat16
def test_a_version_that_replaces_another_is_executed_alike(
    published: Published, certain: Path, caplog: pytest.LogCaptureFixture, cache_folder: Path
) -> None:
    """Nothing is measured while requests are answered; ONNX Runtime steps in where the golden images fail."""
    options = ServeOptions(repository=published.path.parents[2], device="auto")
    plan = ExecutionPlan(instances=1, threads=1, max_batch=4, fused=True, runtime="openvino-bf16")
    with ThreadPoolExecutor(1) as decoders:
        for path, runtime in ((published.path, "openvino-bf16"), (certain, "cpu")):
            assert load("colors", 2, path, decoders, options, plan).plan.runtime == runtime
    assert _files(cache_folder) == []
    assert "is executed on cpu, and not on openvino-bf16 as before" in caplog.text


def test_a_job_is_computed_by_one_runtime(published: Published) -> None:
    """It is chosen once, so that all workers use it, and a job that is continued does."""
    first = read_job_model(published.path, "auto")
    assert first.device != "auto"
    assert read_job_model(published.path, "auto").device == first.device


def test_bench_names_the_chosen_runtime(published: Published, cache_folder: Path) -> None:
    """With `--json` and `--runtime auto`."""
    done = run_cli("bench", published.path, "--runtime", "auto", "--batch", "1", "--threads", "1", "--json")
    (file,) = _files(cache_folder)
    assert json.loads(done.stdout)["runtime"] == json.loads(file.read_text())["runtime"]
