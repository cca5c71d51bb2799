"""OpenVINO: the answers of ONNX Runtime on real exports, dynamic batches, servers, and errors."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.cli import run_cli
from support.runs import SPEC, write_run
from support.servers import server_thread

import unfreeze
from bench.models import publish_random
from unfreeze.batch.model import read_job_model
from unfreeze.contract.errors import ModelError
from unfreeze.contract.model.model_file import read_model
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import Published, export_model
from unfreeze.serve.models.verification import verify
from unfreeze.serve.runtimes import openvino as openvino_runtime
from unfreeze.serve.runtimes.base import Runtime, RuntimeOptions
from unfreeze.serve.runtimes.openvino_library import supports_bfloat16
from unfreeze.serve.runtimes.registry import open_runtime

pytestmark = pytest.mark.xdist_group("serve")
WEIGHTS = Path("/work/shared/models/squeezenet1_0-imagenet.pth")
needs_bfloat16 = pytest.mark.skipif(not supports_bfloat16(), reason="OpenVINO has no bfloat16 for this CPU")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The path of a squeezenet1_1 with random weights in each precision."""
    folder = tmp_path_factory.mktemp("openvino")
    run = write_run(folder)
    return {
        precision: export_model(
            run, folder / "models", precision, ExportOptions(precision=precision, max_batch=16, max_drop=100)
        ).path
        for precision in ("fp32", "fp16", "int8")
    }


def _pixels(images: int) -> np.ndarray:
    return np.random.default_rng(images).integers(0, 256, (images, *SPEC.shape), np.uint8)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 2e-2), ("int8", 0.1)])
def test_answers_are_those_of_onnx_runtime(exported: dict[str, Path], precision: str, tolerance: float) -> None:
    """Of every precision and batch size, in any order; float16 is computed in float32, int8 with other kernels."""
    options = RuntimeOptions(threads=1)
    with (
        open_runtime(exported[precision], "cpu", options) as expected,
        open_runtime(exported[precision], "openvino", options) as found,
    ):
        assert isinstance(found, Runtime)
        for images in (1, 5, 2, 16, 1):
            pixels = found.buffer(images)
            pixels[:] = _pixels(images)
            answers = found.run(pixels)
            assert (answers.shape, answers.dtype) == ((images, 3), np.float32)
            np.testing.assert_allclose(answers, expected.run(pixels), atol=tolerance)
            np.testing.assert_allclose(answers.sum(1), 1, atol=1e-5)


@needs_bfloat16
def test_bfloat16_computes_less_precisely(exported: dict[str, Path]) -> None:
    """Probabilities differ by more than rounding in float32, and by at most a few hundredths."""
    pixels = _pixels(8)
    with open_runtime(exported["fp32"], "cpu") as cpu, open_runtime(exported["fp32"], "openvino-bf16") as found:
        difference = np.abs(cpu.run(pixels) - found.run(pixels)).max()
    assert 1e-5 < difference < 0.05


@needs_bfloat16
def test_bfloat16_is_verified_with_the_tolerance_of_int8(exported: dict[str, Path]) -> None:
    """And in float32 with that of the model."""
    assert verify(exported["fp32"], runtime="openvino").tolerance == 0.01
    result = verify(exported["fp32"], runtime="openvino-bf16")
    assert result.tolerance == 0.5
    assert 1e-4 < result.largest_difference < 0.5


@needs_bfloat16
def test_bfloat16_is_refused_where_a_golden_image_gets_another_label(tmp_path: Path) -> None:
    """Although all logarithms of probabilities are within the tolerance: they are nearly equal in this model."""
    published = export_model(write_run(tmp_path, temperature=100.0), tmp_path / "models", "flat")
    model = read_model(published.path)
    golden, *others = model.manifest.golden
    first, *_, last = np.argsort(golden.probabilities)
    swapped = list(golden.probabilities)
    swapped[first], swapped[last] = swapped[last], swapped[first]
    changed = replace(golden, probabilities=tuple(swapped), label=model.manifest.labels[int(first)])
    altered = replace(model, manifest=replace(model.manifest, golden=(changed, *others)))
    assert open_runtime(model, "openvino-bf16").manifest.golden == model.manifest.golden
    with pytest.raises(ModelError, match=r"is classified as .*, expected .*the precision is too low"):
        open_runtime(altered, "openvino-bf16")


@pytest.mark.parametrize(
    ("runtime", "precision"), [pytest.param("openvino-bf16", "fp32", marks=needs_bfloat16), ("openvino", "int8")]
)
def test_a_low_precision_is_refused_without_golden_images(
    runtime: str, precision: str, exported: dict[str, Path]
) -> None:
    """Nothing would show that its answers are those of the export; float32 needs no proof."""
    model = read_model(exported[precision])
    bare = replace(model, manifest=replace(model.manifest, golden=()))
    with pytest.raises(ModelError, match="has no golden images, without which OpenVINO is not trusted"):
        open_runtime(bare, runtime)
    whole = read_model(exported["fp32"])
    open_runtime(replace(whole, manifest=replace(whole.manifest, golden=())), "openvino").close()


def test_concurrent_batches_are_independent(exported: dict[str, Path]) -> None:
    """Batches of four threads, more than there are instances, get the answers that they get alone."""
    with open_runtime(exported["fp32"], "openvino", RuntimeOptions(threads=1, instances=2)) as runtime:
        batches = [_pixels(images) for images in (1, 2, 3, 4)] * 5
        alone = [runtime.run(batch) for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(runtime.run, batches))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_read_only_and_strided_pixels_are_accepted(exported: dict[str, Path]) -> None:
    """They are copied; the answers stay unchanged when the pixels change afterwards."""
    pixels = _pixels(6)
    with open_runtime(exported["fp32"], "openvino") as runtime:
        expected = runtime.run(pixels)
        strided = runtime.run(pixels[::2])
        frozen = pixels.copy()
        frozen.flags.writeable = False
        np.testing.assert_allclose(runtime.run(frozen), expected, atol=1e-6)
        kept = expected.copy()
        pixels[:] = 0
        runtime.run(pixels)
    np.testing.assert_allclose(strided, expected[::2], atol=1e-6)
    np.testing.assert_array_equal(expected, kept)


def test_a_server_answers_with_openvino(published: Published, images: list[bytes]) -> None:
    """Clients get the labels and probabilities of ONNX Runtime."""
    with (
        server_thread(published.path.parents[2], device="openvino") as target,
        unfreeze.Client(target) as client,
        unfreeze.load_model(published.path) as local,
    ):
        found, expected = client.predict(images), local.predict(images)
    assert [one[0].label for one in found] == [one[0].label for one in expected]
    np.testing.assert_allclose([one[0].score for one in found], [one[0].score for one in expected], atol=1e-5)


def test_the_commands_take_openvino(exported: dict[str, Path], tmp_path: Path) -> None:
    """`verify`, `predict --file`, and `predict --out`, whose result is that of ONNX Runtime."""
    import pyarrow.parquet as pq

    images = exported["fp32"].parents[3] / "images" / "val"
    done = run_cli("verify", exported["int8"], "--runtime", "openvino")
    assert "golden images: 5" in done.stdout, done.stderr
    named = next(images.rglob("*.jpg"))
    assert run_cli("predict", named, "--file", exported["fp32"], "--device", "openvino").returncode == 0
    for device in ("cpu", "openvino"):
        out = tmp_path / f"{device}.parquet"
        done = run_cli("predict", images, "--file", exported["fp32"], "--device", device, "--out", out)
        assert done.returncode == 0, done.stderr
    columns = [pq.read_table(tmp_path / f"{device}.parquet").to_pydict() for device in ("cpu", "openvino")]
    assert columns[0]["label"] == columns[1]["label"]
    assert len(columns[0]["label"]) == 18


def test_a_job_has_as_many_instances_as_cores(exported: dict[str, Path]) -> None:
    """OpenVINO is a runtime on the CPU: batches of 16, not those of a GPU."""
    model = read_job_model(exported["fp32"], "openvino")
    assert (model.uses_cpu, model.batch, model.device) == (True, 16, "openvino")


def test_errors_name_the_file_and_the_reason(exported: dict[str, Path]) -> None:
    """A graph that is no graph, another manifest, pixels of another size, and a closed runtime."""
    model = read_model(exported["fp32"])
    with pytest.raises(ModelError, match=r"model\.onnx is not an ONNX model that OpenVINO can load: Unable to read"):
        open_runtime(replace(model, content=b"nonsense"), "openvino")
    other = replace(model.manifest, labels=("ant", "bee"), golden=())
    with pytest.raises(ModelError, match=r"has the tensors .*\[\?,3\].*declares .*\[\?,2\]"):
        open_runtime(replace(model, manifest=other), "openvino")
    with open_runtime(model, "openvino") as runtime:
        with pytest.raises(ModelError, match=r"failed on a batch of 2: .*shape=\[\?,32,32,3\]"):
            runtime.run(np.zeros((2, 8, 8, 3), np.uint8))
        assert runtime.run(_pixels(2)).shape == (2, 3)
    with pytest.raises(ModelError, match="is closed"):
        runtime.run(_pixels(1))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of a process as Linux reports it")
def test_closing_frees_the_memory(exported: dict[str, Path]) -> None:
    """Twenty models that are opened and closed need less memory than three more that stay open would."""
    model = read_model(exported["fp32"])

    def cycle() -> None:
        with openvino_runtime.open_model(model, RuntimeOptions(threads=1)) as runtime:
            runtime.run(_pixels(4))

    for _ in range(3):
        cycle()
    before = _resident_mb()
    for _ in range(20):
        cycle()
    assert _resident_mb() - before < 30


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


_MISSING = """
import sys
sys.modules["openvino"] = None
from unfreeze.contract.errors import ModelError
from unfreeze.serve.runtimes import open_runtime
for name in ("openvino", "openvino-bf16"):
    try:
        open_runtime(sys.argv[1], name)
    except ModelError as error:
        print(error)
print(type(open_runtime(sys.argv[1], "auto")).__name__)
"""


def _python(code: str, *arguments: object, **variables: str) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | variables).stdout


def test_without_the_package_the_error_names_the_extra(exported: dict[str, Path]) -> None:
    """And `auto` is ONNX Runtime, without a word."""
    *errors, opened = _python(_MISSING, exported["fp32"]).splitlines()
    assert len(errors) == 2
    assert all("pip install 'unfreeze[openvino]'" in error for error in errors)
    assert opened == "OnnxRuntime"


def test_other_runtimes_do_not_import_it(exported: dict[str, Path]) -> None:
    """Nor does OpenVINO's runtime import ONNX Runtime."""
    code = "import sys; from unfreeze.serve.runtimes import open_runtime; open_runtime(sys.argv[1], sys.argv[2]);"
    code += "print({'onnxruntime', 'openvino', 'torch'} & sys.modules.keys())"
    assert _python(code, exported["fp32"], "cpu") == "{'onnxruntime'}\n"
    assert _python(code, exported["fp32"], "openvino") == "{'openvino'}\n"


def test_auto_works_without_a_cache_folder(exported: dict[str, Path]) -> None:
    """With platformdirs missing, as on a device with few libraries, each start measures."""
    code = "import os, sys; sys.modules['platformdirs'] = None; os.environ.pop('UNFREEZE_CACHE_DIR');"
    code += (
        "from unfreeze.serve.runtimes import open_runtime; print(open_runtime(sys.argv[1], 'auto').manifest.precision)"
    )
    assert _python(code, exported["fp32"]) == "fp32\n"


def test_opening_a_model_reports_nothing_to_anybody(exported: dict[str, Path], tmp_path: Path) -> None:
    """OpenVINO's telemetry is not imported, and does not leave its files in the home folder."""
    code = "import sys; from unfreeze.serve.runtimes import open_runtime; open_runtime(sys.argv[1], 'openvino');"
    code += "import openvino; print(sorted(name for name in sys.modules if 'openvino_telemetry' in name))"
    assert _python(code, exported["fp32"], HOME=str(tmp_path)) == "[]\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"needs the trained weights {WEIGHTS}")
def test_answers_of_trained_weights_are_those_of_onnx_runtime(tmp_path: Path) -> None:
    """Of a squeezenet1_0 that was trained on ImageNet, on a photograph's size."""
    repository = publish_random("squeezenet1_0", tmp_path, weights=str(WEIGHTS))
    path = repository / "random" / "1" / "model.onnx"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    with open_runtime(path, "cpu") as expected, open_runtime(path, "openvino") as found:
        np.testing.assert_allclose(found.run(pixels), expected.run(pixels), atol=1e-5)
