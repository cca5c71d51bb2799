"""QuantizeLinear and DequantizeLinear of ONNX in torch, with gradients."""

from typing import Any

import torch
from torch import Tensor


class _RoundStraightThrough(torch.autograd.Function):
    """Rounds half to even, as ONNX does, and clamps.

    The gradient inside the bounds is that of the identity (Bengio et al. 2013, arXiv:1308.3432).
    """

    @staticmethod
    def forward(context: Any, values: Tensor, zero_point: Tensor, bounds: tuple[int, int]) -> Tensor:
        rounded = values.round() + zero_point
        clamped = rounded.clamp(*bounds)
        context.save_for_backward(clamped == rounded)
        return clamped

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = context.saved_tensors
        return gradient * inside, None, None


def quantize(values: Tensor, scale: Tensor, zero_point: Tensor, bounds: tuple[int, int]) -> Tensor:
    """Quantize as QuantizeLinear does; values beyond the bounds have no gradient.

    The gradient of the scale is that of learned step sizes (Esser et al. 2020, arXiv:1902.08153).

    Args:
        values: float32, of any shape.
        scale: float32; one, or one per channel in a shape that broadcasts.
        zero_point: the integer that stands for 0, as float32 in the same shape.
        bounds: the smallest and the largest integer.

    Returns:
        Integers, as float32.
    """
    integers: Tensor = _RoundStraightThrough.apply(values / scale, zero_point, bounds)
    return integers


def dequantize(integers: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Dequantize as DequantizeLinear does; the arguments are those of `quantize`."""
    return (integers - zero_point) * scale


def symmetric_scale(weight: Tensor, axis: int | None, bound: int) -> Tensor:
    """Return the scale at which the largest magnitude becomes the bound, in a shape that broadcasts.

    Args:
        weight: float32.
        axis: of the channels, which have a scale each; None for one scale.
        bound: largest integer.
    """
    axes = [other for other in range(weight.ndim) if other != axis]
    largest = weight.detach().abs().amax(axes, keepdim=True)
    return (largest / bound).clamp(min=torch.finfo(torch.float32).tiny)
