"""Pipelined execution on a device with memory of its own: a fake device in main memory, with a real session."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.host_device import HostDevice
from support.manifests import MANIFEST
from support.runs import SPEC

from unfreeze.contract.errors import ModelError
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.contract.model.manifest import METADATA_KEY
from unfreeze.contract.model.model_file import read_model
from unfreeze.contract.model.seal import sealed
from unfreeze.export.run import Published
from unfreeze.serve.runtimes.base import RuntimeOptions
from unfreeze.serve.runtimes.device_pipeline import DevicePipeline, batch_sizes
from unfreeze.serve.runtimes.onnx_cpu import open_path
from unfreeze.serve.runtimes.onnx_cuda import BoundGraph, provider_options
from unfreeze.serve.runtimes.onnx_session import open_session

pytestmark = pytest.mark.xdist_group("serve")

PROVIDER = "CPUExecutionProvider"


def _open_pipeline(path: Path, device: HostDevice, *, max_batch: int = 8, slots: int = 2) -> DevicePipeline:
    """Do what `onnx_cuda.open_model` does, in main memory."""
    model = read_model(path)

    def load(_compute: int) -> BoundGraph:
        return BoundGraph(open_session(model, PROVIDER), model.manifest, device.name)

    return DevicePipeline(model.manifest, device, max_batch=max_batch, slots=slots, load=load, name="colors")


@pytest.fixture
def device() -> HostDevice:
    """A fake device."""
    return HostDevice()


@pytest.fixture
def pipeline(published: Published, device: HostDevice) -> Iterator[DevicePipeline]:
    """A model on the device."""
    with _open_pipeline(published.path, device) as opened:
        yield opened


def _images(count: int, seed: int = 0, spec: PreprocessSpec = SPEC) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *spec.shape), np.uint8)


@pytest.mark.parametrize(
    ("max_batch", "sizes"),
    [
        (1, [1]),
        (5, [1, 2, 3, 4, 5]),
        (8, [1, 2, 3, 4, 6, 8]),
        (64, [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]),
        (100, [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 100]),
    ],
)
def test_batch_sizes_grow_by_at_most_a_half(max_batch: int, sizes: list[int]) -> None:
    """Except from 1 to 2; the last size is the largest batch."""
    assert list(batch_sizes(max_batch)) == sizes


def test_results_match_the_cpu_runtime(published: Published, pipeline: DevicePipeline) -> None:
    """For empty, full, partial and oversized batches."""
    with open_path(published.path) as reference:
        for count in (0, 1, 2, 5, 7, 8, 9, 21):
            pixels = _images(count, seed=count)
            expected = reference.run(pixels) if count else np.empty((0, len(reference.manifest.labels)), np.float32)
            np.testing.assert_allclose(pipeline.run(pixels), expected, atol=1e-6)


def test_padding_does_not_change_results(pipeline: DevicePipeline) -> None:
    """A batch is padded with whatever earlier batches left in the slot, and its own results stay the same."""
    few = _images(5)
    alone = pipeline.run(few)
    for seed in range(4):
        pipeline.run(_images(8, seed))
        np.testing.assert_array_equal(pipeline.run(few), alone)


def test_concurrent_callers_get_their_own_results(pipeline: DevicePipeline) -> None:
    """Eight threads share two slots."""
    batches = [_images(1 + number % 9, seed=number) for number in range(64)]
    expected = [pipeline.run(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for answer, wanted in zip(pool.map(pipeline.run, batches), expected, strict=True):
            np.testing.assert_array_equal(answer, wanted)


def test_accepts_any_memory_layout(pipeline: DevicePipeline) -> None:
    """Non-contiguous arrays and page-locked buffers; but not another image size."""
    pixels = _images(6)
    expected = pipeline.run(pixels)
    np.testing.assert_array_equal(pipeline.run(np.repeat(pixels, 2, axis=0)[::2]), expected)
    own = pipeline.buffer(6)
    own[:] = pixels
    np.testing.assert_array_equal(pipeline.run(own), expected)
    with pytest.raises(ModelError, match="expects images of shape"):
        pipeline.run(own[:, :-1])


def test_close_frees_all_device_memory_and_streams(published: Published, device: HostDevice) -> None:
    """Once, also if it is called twice; a closed pipeline raises an error."""
    pipeline = _open_pipeline(published.path, device)
    assert len(device.memory) == 4
    assert len(device.streams) == 3
    pipeline.close()
    pipeline.close()
    assert not device.memory
    assert not device.streams
    with pytest.raises(ModelError, match="colors is closed"):
        pipeline.run(_images(1))


def _write_memory_hungry_model(path: Path, enough_for: int) -> Path:
    """Write a model that needs more memory than can exist for batches of at least this size."""
    nodes = [
        helper.make_node("Shape", ["pixels"], ["count"], start=0, end=1),
        helper.make_node("Div", ["count", "enough_for"], ["times"]),
        helper.make_node("Mul", ["times", "too_many"], ["numbers"]),
        helper.make_node("ConstantOfShape", ["numbers"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Concat", ["count", "labels"], ["shape"], axis=0),
        helper.make_node("Expand", ["half", "shape"], ["halves"]),
        helper.make_node("Add", ["halves", "zero"], ["probabilities"]),
    ]
    constants = {"enough_for": [enough_for], "too_many": [2**50], "labels": [2]}
    tensors = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    tensors.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    model_input = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", *MANIFEST.preprocess.shape])
    model_output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(nodes, "memory_hungry", [model_input], [model_output], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.metadata_props.add(key=METADATA_KEY, value=MANIFEST.to_json())
    path.write_bytes(sealed(model.SerializeToString()))
    return path


def test_out_of_memory_halves_the_batch_size(
    tmp_path: Path, device: HostDevice, caplog: pytest.LogCaptureFixture
) -> None:
    """At warm-up, with a warning; requests of any size are then executed in smaller batches."""
    path = _write_memory_hungry_model(tmp_path / "model.onnx", enough_for=3)
    with caplog.at_level(logging.WARNING), _open_pipeline(path, device, max_batch=16) as pipeline:
        assert pipeline.sizes == (1, 2)
        np.testing.assert_array_equal(
            pipeline.run(_images(7, spec=MANIFEST.preprocess)), np.full((7, 2), 0.5, np.float32)
        )
    assert [record.getMessage() for record in caplog.records] == [
        "colors: out of device memory for a batch of 16; batches are limited to 8 from now on",
        "colors: out of device memory for a batch of 8; batches are limited to 4 from now on",
        "colors: out of device memory for a batch of 4; batches are limited to 2 from now on",
    ]


def test_out_of_memory_for_one_image_is_an_error(tmp_path: Path, device: HostDevice) -> None:
    """The model is not loaded, and all memory is freed."""
    with pytest.raises(ModelError, match="colors does not fit in the device's memory: colors failed on a batch of 1"):
        _open_pipeline(_write_memory_hungry_model(tmp_path / "model.onnx", enough_for=1), device)
    assert not device.memory
    assert not device.streams


def test_provider_options() -> None:
    """Memory limits, CUDA graphs and the exhaustive search are off by default."""
    default = provider_options(RuntimeOptions(), 7)
    assert (default["user_compute_stream"], default["enable_cuda_graph"], default["use_tf32"]) == ("7", "0", "0")
    assert "gpu_mem_limit" not in default
    options = RuntimeOptions(gpu_memory_mib=3, cuda_graphs=True, cudnn_search=True)
    explicit = provider_options(options, 7)
    assert explicit["gpu_mem_limit"] == str(3 * 2**20)
    assert (explicit["enable_cuda_graph"], explicit["cudnn_conv_algo_search"]) == ("1", "EXHAUSTIVE")
