"""Fake quantization is ONNX Runtime's QuantizeLinear and DequantizeLinear, with gradients."""

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from unfreeze.export.finish.fake_quantize import dequantize, quantize, symmetric_scale

BOUNDS = {np.uint8: (0, 255), np.int8: (-128, 127)}


def _runtime(values: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantize and dequantize with ONNX Runtime; channels are axis 1."""
    constants = [numpy_helper.from_array(scale, "scale"), numpy_helper.from_array(zero_point, "zero")]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], axis=1),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], axis=1),
    ]
    kind = helper.np_dtype_to_tensor_dtype(zero_point.dtype)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
    outputs = [
        helper.make_tensor_value_info("q", kind, None),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    found = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": values})
    return found[0], found[1]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize("seed", range(3))
def test_is_that_of_onnx_runtime_to_the_bit(kind: type, per_channel: bool, seed: int) -> None:  # noqa: FBT001
    """For random scales and zero points, also for halves and for values beyond the range."""
    rng = np.random.default_rng(seed)
    shape = (5,) if per_channel else ()
    scale = rng.uniform(1e-4, 3, shape).astype(np.float32)
    zero_point = rng.integers(*BOUNDS[kind], shape, endpoint=True).astype(kind)
    broadcast = (1, -1, 1) if per_channel else ()
    halves = rng.integers(-300, 300, (4, 5, 100)).astype(np.float32) / 2 * scale.reshape(broadcast)
    values = np.concatenate([halves, rng.normal(0, 100, (4, 5, 1000)).astype(np.float32) * scale.reshape(broadcast)], 2)
    scales, zeros = (torch.from_numpy(one.astype(np.float32).reshape(broadcast)) for one in (scale, zero_point))
    integers = quantize(torch.from_numpy(values), scales, zeros, BOUNDS[kind])
    expected = _runtime(values, scale, zero_point)
    np.testing.assert_array_equal(integers.numpy(), expected[0])
    np.testing.assert_array_equal(dequantize(integers, scales, zeros).numpy(), expected[1])
    assert len(np.unique(expected[0])) > 200


def test_gradients_pass_the_rounding_and_stop_at_the_bounds() -> None:
    """Values inside the range have a gradient of 1; that of the scale is the rounding error, or the bound outside."""
    values = torch.tensor([-1.0, 0.3, 1.6, 99.0], requires_grad=True)
    scale = torch.tensor(1.0, requires_grad=True)
    zero = torch.tensor(0.0)
    dequantize(quantize(values, scale, zero, (0, 10)), scale, zero).sum().backward()
    assert values.grad is not None
    assert scale.grad is not None
    assert values.grad.tolist() == [0.0, 1.0, 1.0, 0.0]
    assert scale.grad.item() == pytest.approx(0 + (0 - 0.3) + (2 - 1.6) + 10)


def test_the_scale_of_a_weight_maps_its_largest_magnitude_to_the_bound() -> None:
    """Of each channel, or of all."""
    weight = torch.tensor([[1.0, -2.0], [0.5, 0.0]])
    assert symmetric_scale(weight, 0, 127).flatten().tolist() == pytest.approx([2 / 127, 0.5 / 127])
    assert symmetric_scale(weight, None, 127).flatten().tolist() == pytest.approx([2 / 127])
