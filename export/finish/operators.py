"""ONNX operators in torch: those of convolutional networks' graphs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Attributes = Mapping[str, Any]
_Operator = Callable[[Sequence[Tensor], Attributes], Tensor]


def _padded(maps: Tensor, attributes: Attributes, value: float = 0.0) -> Tensor:
    """Pad height and width as the attribute `pads` says: top, left, bottom, right."""
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    return nn.functional.pad(maps, (left, right, top, bottom), value=value) if any((top, left, bottom, right)) else maps


def _conv(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    maps, weight, *bias = inputs
    return nn.functional.conv2d(
        _padded(maps, attributes),
        weight,
        bias[0] if bias else None,
        attributes.get("strides", (1, 1)),
        0,
        attributes.get("dilations", (1, 1)),
        attributes.get("group", 1),
    )


def _gemm(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    left, right, *bias = inputs
    left = left.T if attributes.get("transA") else left
    right = right.T if attributes.get("transB") else right
    product = (left @ right) * float(attributes.get("alpha", 1.0))
    return product + bias[0] * float(attributes.get("beta", 1.0)) if bias else product


def _max_pool(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    padded = _padded(inputs[0], attributes, -torch.inf)
    ceil = bool(attributes.get("ceil_mode", 0))
    return nn.functional.max_pool2d(
        padded, attributes["kernel_shape"], attributes.get("strides", (1, 1)), ceil_mode=ceil
    )


def _average_pool(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    if (top, left) != (bottom, right):
        raise NotImplementedError("AveragePool with uneven padding")
    return nn.functional.avg_pool2d(
        inputs[0],
        attributes["kernel_shape"],
        attributes.get("strides", (1, 1)),
        (top, left),
        ceil_mode=bool(attributes.get("ceil_mode", 0)),
        count_include_pad=bool(attributes.get("count_include_pad", 0)),
    )


def _reduce_mean(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    axes = inputs[1].tolist() if len(inputs) > 1 else attributes.get("axes")
    return inputs[0].mean(axes, keepdim=bool(attributes.get("keepdims", 1)))


def _hard_sigmoid(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    return (inputs[0] * float(attributes.get("alpha", 0.2)) + float(attributes.get("beta", 0.5))).clamp(0, 1)


OPERATORS: dict[str, _Operator] = {
    "Add": lambda inputs, _: inputs[0] + inputs[1],
    "AveragePool": _average_pool,
    "Cast": lambda inputs, _: inputs[0].float(),
    "Clip": lambda inputs, _: inputs[0].clamp(*inputs[1:]),
    "Concat": lambda inputs, attributes: torch.cat(list(inputs), attributes["axis"]),
    "Conv": _conv,
    "Div": lambda inputs, _: inputs[0] / inputs[1],
    "Flatten": lambda inputs, attributes: inputs[0].flatten(attributes.get("axis", 1)),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda inputs, _: inputs[0].mean((2, 3), keepdim=True),
    "HardSigmoid": _hard_sigmoid,
    "Identity": lambda inputs, _: inputs[0],
    "MatMul": lambda inputs, _: inputs[0] @ inputs[1],
    "MaxPool": _max_pool,
    "Mul": lambda inputs, _: inputs[0] * inputs[1],
    "Neg": lambda inputs, _: -inputs[0],
    "ReduceMean": _reduce_mean,
    "Relu": lambda inputs, _: inputs[0].relu(),
    "Sigmoid": lambda inputs, _: inputs[0].sigmoid(),
    "Softmax": lambda inputs, attributes: inputs[0].softmax(attributes.get("axis", -1)),
    "Softplus": lambda inputs, _: nn.functional.softplus(inputs[0]),
    "Sub": lambda inputs, _: inputs[0] - inputs[1],
    "Transpose": lambda inputs, attributes: inputs[0].permute(*attributes["perm"]),
}
