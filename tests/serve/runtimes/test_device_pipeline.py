"""Batches through a device with memory of its own: here this machine's, with a real session."""

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
from unfreeze.contract.model.seal import sealed
from unfreeze.export.run import Published
from unfreeze.serve.runtimes.device_pipeline import DevicePipeline, batch_sizes
from unfreeze.serve.runtimes.onnx_cpu import OnnxRuntime, RuntimeOptions, open_session, read_checked
from unfreeze.serve.runtimes.onnx_cuda import BoundGraph, open_on_cuda, provider_options

PROVIDER = "CPUExecutionProvider"


def _pipeline(path: Path, device: HostDevice, *, most: int = 8, slots: int = 2) -> DevicePipeline:
    """What `open_on_cuda` does, on this machine's memory."""
    model, manifest = read_checked(path)

    def load(_compute: int) -> BoundGraph:
        return BoundGraph(open_session(model, manifest, path, PROVIDER), manifest, device.name)

    return DevicePipeline(manifest, device, most=most, slots=slots, load=load, name="colors")


@pytest.fixture
def device() -> HostDevice:
    """A device."""
    return HostDevice()


@pytest.fixture
def pipeline(published: Published, device: HostDevice) -> Iterator[DevicePipeline]:
    """A model on it."""
    with _pipeline(published.path, device) as opened:
        yield opened


def _images(count: int, seed: int = 0, spec: PreprocessSpec = SPEC) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *spec.shape), np.uint8)


@pytest.mark.parametrize(
    ("most", "sizes"),
    [
        (1, [1]),
        (5, [1, 2, 3, 4, 5]),
        (8, [1, 2, 3, 4, 6, 8]),
        (64, [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]),
        (100, [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 100]),
    ],
)
def test_sizes_repeat(most: int, sizes: list[int]) -> None:
    """There are few of them, and the next one is never more than half as large again, but for 2 images."""
    assert list(batch_sizes(most)) == sizes


def test_answers_are_those_of_the_plain_runtime(published: Published, pipeline: DevicePipeline) -> None:
    """For batches of every size, also of more than the largest, and of none."""
    with OnnxRuntime(published.path) as plain:
        for count in (0, 1, 2, 5, 7, 8, 9, 21):
            pixels = _images(count, seed=count)
            expected = plain.run(pixels) if count else np.empty((0, len(plain.manifest.labels)), np.float32)
            np.testing.assert_allclose(pipeline.run(pixels), expected, atol=1e-6)


def test_what_was_in_a_slot_before_is_in_no_answer(pipeline: DevicePipeline) -> None:
    """A batch that is filled up is filled up with what others left; its own answers do not change by it."""
    few = _images(5)
    alone = pipeline.run(few)
    for seed in range(4):
        pipeline.run(_images(8, seed))
        np.testing.assert_array_equal(pipeline.run(few), alone)


def test_callers_at_once_get_their_own_answers(pipeline: DevicePipeline) -> None:
    """Eight threads share two slots."""
    batches = [_images(1 + number % 9, seed=number) for number in range(64)]
    expected = [pipeline.run(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for answer, wanted in zip(pool.map(pipeline.run, batches), expected, strict=True):
            np.testing.assert_array_equal(answer, wanted)


def test_images_that_lie_anyhow_are_taken(pipeline: DevicePipeline) -> None:
    """Also those that do not lie one after the other in memory, and those in the device's own memory."""
    pixels = _images(6)
    expected = pipeline.run(pixels)
    np.testing.assert_array_equal(pipeline.run(np.repeat(pixels, 2, axis=0)[::2]), expected)
    own = pipeline.buffer(6)
    own[:] = pixels
    np.testing.assert_array_equal(pipeline.run(own), expected)
    with pytest.raises(ModelError, match="takes images of"):
        pipeline.run(own[:, :-1])


def test_everything_is_given_back(published: Published, device: HostDevice) -> None:
    """Once, however often it is closed; then it answers no more."""
    pipeline = _pipeline(published.path, device)
    assert len(device.memory) == 4
    assert len(device.streams) == 3
    pipeline.close()
    pipeline.close()
    assert not device.memory
    assert not device.streams
    with pytest.raises(ModelError, match="colors was closed"):
        pipeline.run(_images(1))


def _greedy(path: Path, enough_for: int) -> Path:
    """Write a model that asks for more memory than there can be, from so many images on."""
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
    taken = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", *MANIFEST.preprocess.shape])
    given = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(nodes, "greedy", [taken], [given], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.metadata_props.add(key=METADATA_KEY, value=MANIFEST.to_json())
    path.write_bytes(sealed(model.SerializeToString()))
    return path


def test_too_little_memory_halves_the_batch(
    tmp_path: Path, device: HostDevice, caplog: pytest.LogCaptureFixture
) -> None:
    """Found when the model is loaded; it says so, and answers requests of any size in smaller batches."""
    path = _greedy(tmp_path / "model.onnx", enough_for=3)
    with caplog.at_level(logging.WARNING), _pipeline(path, device, most=16) as pipeline:
        assert pipeline.sizes == (1, 2)
        np.testing.assert_array_equal(
            pipeline.run(_images(7, spec=MANIFEST.preprocess)), np.full((7, 2), 0.5, np.float32)
        )
    assert [record.getMessage() for record in caplog.records] == [
        "colors: too little memory for 16 images; at most 8 from now on",
        "colors: too little memory for 8 images; at most 4 from now on",
        "colors: too little memory for 4 images; at most 2 from now on",
    ]


def test_too_little_memory_for_one_image(tmp_path: Path, device: HostDevice) -> None:
    """The model is refused, and holds nothing."""
    with pytest.raises(ModelError, match="colors does not fit: colors failed on a batch of 1"):
        _pipeline(_greedy(tmp_path / "model.onnx", enough_for=1), device)
    assert not device.memory
    assert not device.streams


def test_the_gpu_or_an_error(published: Published) -> None:
    """Where ONNX Runtime has no CUDA, asking for it never gives the CPU instead."""
    with pytest.raises(ModelError, match=r"has no CUDAExecutionProvider.*pip install 'unfreeze\[gpu\]'"):
        open_on_cuda(published.path, RuntimeOptions())


def test_what_the_provider_is_told() -> None:
    """Limits and graphs only where they were asked for."""
    usual = provider_options(RuntimeOptions(), 7)
    assert (usual["user_compute_stream"], usual["enable_cuda_graph"], usual["use_tf32"]) == ("7", "0", "0")
    assert "gpu_mem_limit" not in usual
    told = provider_options(RuntimeOptions(memory_mib=3, graphs=True, search=True), 7)
    assert told["gpu_mem_limit"] == str(3 * 2**20)
    assert (told["enable_cuda_graph"], told["cudnn_conv_algo_search"]) == ("1", "EXHAUSTIVE")
