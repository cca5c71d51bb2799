"""The trained part of a quantized graph as a torch module."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from unfreeze.contract.errors import ProofError
from unfreeze.export.finish.fake_quantize import dequantize, quantize, symmetric_scale
from unfreeze.export.finish.operators import OPERATORS
from unfreeze.export.finish.parts import Weight, split

_WEIGHT_BOUNDS = (-127, 127)
_BIAS_BOUND = 2**31 - 1
_BOUNDS: dict[int, tuple[int, int]] = {TensorProto.UINT8: (0, 255), TensorProto.INT8: (-128, 127)}


class TrainableGraph(nn.Module):
    """Computes what a quantized graph computes, from the first trained layer on, with gradients.

    Weights and biases are float parameters; weights are rounded to int8 in every pass (Jacob et al. 2018,
    arXiv:1712.05877). The scales of activations are parameters, too, as factors of those that were calibrated.

    Args:
        model: the quantized graph, which ends with a softmax.
        floats: the weights before quantization, by name.
        trained: names of the weights that may change.

    Attributes:
        border: names of the tensors that the frozen part of the graph computes.

    Raises:
        ProofError: no layer of the graph has a trained weight, or an operator behind it has no gradient here.
    """

    def __init__(self, model: onnx.ModelProto, floats: Mapping[str, np.ndarray], trained: Collection[str]) -> None:
        super().__init__()
        self._model = model
        self._parts = split(model, floats, trained)
        unknown = {node.op_type for node in self._parts.nodes} - {*OPERATORS, "QuantizeLinear", "DequantizeLinear"}
        if unknown or self._parts.nodes[-1].op_type != "Softmax":
            raise ProofError(f"the graph has operators that cannot be trained: {', '.join(sorted(unknown))}")
        self.border = self._parts.border
        initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._constants = {
            name: torch.from_numpy(numpy_helper.to_array(one).copy()) for name, one in initializers.items()
        }
        self._bounds = {name: _BOUNDS[one.data_type] for name, one in initializers.items() if one.data_type in _BOUNDS}
        self._attributes = [
            {one.name: helper.get_attribute_value(one) for one in node.attribute} for node in self._parts.nodes
        ]
        # In lists, because names of parameters must not have dots.
        self._names = tuple(dict.fromkeys(one.name for one in self._parts.weights.values()))
        self.weights = nn.ParameterList(torch.from_numpy(floats[name].copy()) for name in self._names)
        self.log_factors = nn.ParameterList(torch.zeros(()) for _ in self._parts.scales)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the logarithms of the probabilities, float32 [N, C].

        Args:
            inputs: the tensors of `border`, by name.
        """
        values: dict[str, Tensor] = {**self._constants, **self._scales(), **inputs}
        for name, weight in self._parts.weights.items():
            learned = self._learned(weight)
            values[name] = learned if weight.int8 is None else dequantize(*self._integers(learned, weight.int8))
        *nodes, last = zip(self._parts.nodes, self._attributes, strict=True)
        for node, attributes in nodes:
            if node.output[0] not in self._parts.weights:
                taken = [values[name] for name in node.input if name]
                values[node.output[0]] = self._run(node, taken, attributes)
        return values[last[0].input[0]].log_softmax(last[1].get("axis", -1))

    def _run(self, node: onnx.NodeProto, inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Tensor:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            return OPERATORS[node.op_type](inputs, attributes)
        values, scale, zero_point = (one.float() for one in inputs)
        if scale.ndim:  # one for each channel
            axis = attributes.get("axis", 1)
            shape = [-1 if number == axis else 1 for number in range(values.ndim)]
            scale, zero_point = scale.view(shape), zero_point.view(shape)
        if node.op_type == "DequantizeLinear":
            return dequantize(values, scale, zero_point)
        return quantize(values, scale, zero_point, self._bounds[node.input[2]])

    def _learned(self, weight: Weight) -> Tensor:
        found: Tensor = self.weights[self._names.index(weight.name)]
        return found

    def _scales(self) -> dict[str, Tensor]:
        """Return the learned scales of activations."""
        learned = zip(self._parts.scales, self.log_factors, strict=True)
        return {name: self._constants[name] * factor.exp() for name, factor in learned}

    def _integers(self, values: Tensor, node: onnx.NodeProto) -> tuple[Tensor, Tensor, Tensor]:
        """Return a weight's integers, their scale in a shape that broadcasts, and the zero point."""
        axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
        has_channels = self._constants[node.input[1]].ndim > 0
        scale = symmetric_scale(values, axis if has_channels else None, _WEIGHT_BOUNDS[1])
        zero_point = torch.zeros(())
        return quantize(values, scale, zero_point, _WEIGHT_BOUNDS), scale, zero_point

    @torch.no_grad()
    def to_model(self) -> onnx.ModelProto:
        """Return the quantized graph with the weights and scales as they are now."""
        changed = self._scales()
        for weight in self._parts.weights.values():
            learned = self._learned(weight)
            if weight.int8 is not None:
                changed[weight.int8.input[0]], changed[weight.int8.input[1]], _ = self._integers(learned, weight.int8)
            elif weight.dequantize is None:
                changed[weight.name] = learned
        changed |= self._biases(changed)
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        for tensor in model.graph.initializer:
            if tensor.name in changed:
                before = numpy_helper.to_array(tensor)
                after = changed[tensor.name].numpy().reshape(before.shape).astype(before.dtype)
                tensor.CopyFrom(numpy_helper.from_array(after, tensor.name))
        return model

    def _biases(self, changed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the integers and scales of all biases: a scale is the product of the input's and the weight's."""
        producers = {name: node for node in self._parts.nodes for name in node.output}
        found: dict[str, Tensor] = {}
        for layer in self._parts.nodes:
            taken, weight, bias = (producers.get(name) for name in (*layer.input, "", "")[:3])
            if bias is None or taken is None or weight is None or layer.op_type not in ("Conv", "Gemm"):
                continue
            scales = [changed.get(name, self._constants[name]) for name in (taken.input[1], weight.input[1])]
            scale = (scales[0].double() * scales[1].double()).flatten()
            known = self._parts.weights.get(layer.input[2])
            values = (
                self._learned(known) if known else dequantize(*(self._constants[name].double() for name in bias.input))
            )
            found[bias.input[0]] = (values / scale).round().clamp(-_BIAS_BOUND, _BIAS_BOUND)
            found[bias.input[1]] = scale
        return found
