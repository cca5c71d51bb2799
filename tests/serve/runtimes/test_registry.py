"""The registry of runtimes: choices, errors, and a runtime that is added with one file and one registration."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import fake_runtime
from support.cli import run_cli
from support.fake_runtime import FAKE, graphless_model
from support.manifests import MANIFEST
from support.servers import server_thread

import unfreeze
from unfreeze.contract.errors import ModelError, OptionsError
from unfreeze.contract.model.model_file import read_model
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.export.run import Published
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.runtimes.base import Runtime, RuntimeOptions
from unfreeze.serve.runtimes.registry import open_runtime, register, runtime_names, specific_options, unregister

pytestmark = pytest.mark.xdist_group("serve")


@pytest.fixture
def fake() -> Iterator[list[object]]:
    """Registers the fake runtime; returns the arguments of its `open_model`."""
    register(FAKE)
    fake_runtime.opened.clear()
    yield fake_runtime.opened
    unregister("fake")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A published model that has a manifest and an empty graph."""
    repository = ModelRepository(tmp_path / "models")
    return repository.path("graphless", repository.publish("graphless", graphless_model(MANIFEST), MANIFEST))


def test_lists_the_built_in_runtimes() -> None:
    """ONNX Runtime and OpenVINO on the CPU, the choice among them, ONNX Runtime on CUDA, and TensorRT."""
    assert runtime_names() == ("cpu", "openvino", "openvino-bf16", "auto", "cuda", "tensorrt")


def test_a_registered_runtime_serves_predictions(fake: list[object], model: Path, tmp_path: Path) -> None:
    """The server loads, measures, warms up and batches on it, and clients get its probabilities."""
    for brightness in (0, 51, 255):
        Image.new("L", (300, 300), brightness).save(tmp_path / f"{brightness}.png")
    images = [tmp_path / f"{brightness}.png" for brightness in (0, 51, 255)]
    with (
        server_thread(model.parents[2], device="fake", threads=3, max_batch=2) as target,
        unfreeze.Client(target) as client,
    ):
        predictions = client.predict(images)
    assert [(prediction[0].label, round(prediction[0].score, 2)) for prediction in predictions] == [
        ("bee", 1.0),
        ("bee", 0.8),
        ("ant", 1.0),
    ]
    ((file, options),) = fake
    assert (file.path, file.manifest) == (model, replace(MANIFEST, sha256=file.manifest.sha256))
    assert (options.threads, options.max_batch) == (3, 2)


def test_a_registered_runtime_is_accepted_everywhere(fake: list[object], model: Path) -> None:
    """`unfreeze.load_model`, `unfreeze verify` and `open_runtime` accept its name."""
    with unfreeze.load_model(model, device="fake") as classifier:
        assert classifier.manifest.labels == ("ant", "bee")
    assert "has no golden images" in run_cli("verify", model, "--runtime", "fake").stderr
    assert isinstance(open_runtime(model, "fake"), Runtime)
    assert len(fake) == 3


@pytest.mark.parametrize("command", ["bench", "verify"])
def test_rejects_an_unknown_runtime_with_the_choices(command: str, model: Path) -> None:
    """The error lists the registered names; the exit code is that of wrong usage."""
    done = run_cli(command, model, "--runtime", "tpu")
    assert done.returncode == 2
    assert "--runtime must be one of cpu, openvino, openvino-bf16, auto, cuda, tensorrt, got 'tpu'" in done.stderr


def test_rejects_an_unknown_device_with_the_choices(tmp_path: Path) -> None:
    """As `--runtime`, when the options are built."""
    with pytest.raises(
        OptionsError, match="--device must be one of cpu, openvino, openvino-bf16, auto, cuda, tensorrt, got 'tpu'"
    ):
        ServeOptions(repository=tmp_path, device="tpu")


@pytest.mark.parametrize("command", ["serve", "bench", "verify"])
def test_help_describes_every_runtime(command: str) -> None:
    """The choices in the help texts come from the registry."""
    text = " ".join(run_cli(command, "--help").stdout.replace("│", " ").split())
    assert all(f'"{name}" (' in text for name in runtime_names())


@pytest.mark.parametrize("option", ["gpu_memory_mib", "cuda_graphs", "cudnn_search"])
def test_rejects_options_of_another_runtime(option: str, tmp_path: Path) -> None:
    """Options that only some runtimes have are rejected for the others."""
    assert option in specific_options()
    message = f"--{option.replace('_', '-')} applies only to --device cuda, got --device cpu"
    with pytest.raises(OptionsError, match=message):
        ServeOptions(repository=tmp_path, **{option: True})
    quiet = {"poll_s": 0, "admin": False}
    assert ServeOptions(repository=tmp_path, device="cuda", **{option: True}, **quiet).device == "cuda"


def test_a_missing_library_names_the_extra(model: Path) -> None:
    """A runtime whose file cannot import its library names the extra to install."""
    register(replace(FAKE, name="missing", module="nowhere.openvino", extra="openvino"))
    try:
        with pytest.raises(ModelError, match=r"'missing' is not available: No module .*'unfreeze\[openvino\]'"):
            open_runtime(model, "missing")
    finally:
        unregister("missing")


def test_rejects_a_precision_that_the_runtime_does_not_execute(model: Path) -> None:
    """Before the runtime is opened, with the precisions that it has."""
    register(replace(FAKE, precisions=frozenset({"int8", "fp16"})))
    try:
        with pytest.raises(ModelError, match="has precision fp32, and runtime 'fake' executes only fp16, int8"):
            open_runtime(model, "fake")
    finally:
        unregister("fake")


def test_an_unavailable_gpu_never_falls_back_to_the_cpu(published: Published) -> None:
    """Without ONNX Runtime's CUDA provider the error says what to install."""
    with pytest.raises(ModelError, match=r"has no CUDAExecutionProvider.*pip install 'unfreeze\[gpu\]'"):
        open_runtime(published.path, "cuda", RuntimeOptions())


def test_the_file_is_read_once_for_several_runtimes(published: Published) -> None:
    """A file in memory can be opened after it was removed from the disk."""
    content = read_model(published.path)
    moved = replace(content, path=Path("removed.onnx"))
    with open_runtime(moved, "cpu") as runtime:
        shape = (1, *runtime.manifest.preprocess.shape)
        assert runtime.run(np.zeros(shape, np.uint8)).shape == (1, 3)
