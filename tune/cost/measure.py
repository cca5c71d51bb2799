"""Measure the latency, arithmetic and memory of each block on this device."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unfreeze.contract.reporting import Reporter, Silent
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.device.precision import Precision

_WARM_UP, _ROUNDS = 1, 3
_ACTIVATION_BYTES = 2  # activations are cached in bfloat16


@dataclass(frozen=True, kw_only=True)
class BlockCost:
    """Cost of one block, per image.

    Args:
        name: of the block.
        parameters: number of parameters, for any number of images.
        forward_flops: FLOPs of the forward pass; a multiply-add counts as two.
        activation_bytes: size of the block's output in the cache.
        saved_bytes: memory that is kept for the backward pass.
        forward_seconds: duration of inference.
        training_seconds: duration of the forward and backward pass.
    """

    name: str
    parameters: int
    forward_flops: int
    activation_bytes: int
    saved_bytes: int
    forward_seconds: float
    training_seconds: float


def measure_blocks(
    network: Network, precision: Precision, batch_size: int, reporter: Reporter | None = None
) -> tuple[BlockCost, ...]:
    """Time the forward pass, and the forward and backward pass, of every block.

    Args:
        network: on the precision's device. Its weights are not changed, but the statistics of its norms are.
        precision: the precision that tuning uses.
        batch_size: images per batch.
        reporter: shows progress.

    Returns:
        One cost per block, in order from the input.
    """
    advance = (reporter or Silent()).track("timing each block", len(network.block_names))
    shape = (batch_size, *network.image_shape)
    batch = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    activations, costs = batch.to(precision.device), []
    for position in range(len(network.block_names)):
        cost, activations = _measure(network, position, activations, precision)
        costs.append(cost)
        advance(1)
    network.eval()
    return tuple(costs)


def measure_evaluation(network: Network, precision: Precision, batch_size: int) -> float:
    """Return the seconds per image that the whole network needs in float32."""
    shape = (batch_size, *network.image_shape)
    batch = torch.zeros(shape, dtype=torch.uint8, device=precision.device)
    with torch.inference_mode():
        return _seconds(lambda: network.eval()(batch), precision) / batch_size


def _measure(network: Network, position: int, inputs: Tensor, precision: Precision) -> tuple[BlockCost, Tensor]:
    """Measure one block; return its cost and its outputs, which are the inputs of the next block."""
    network.eval()
    batch = precision.to_device(inputs)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        _forward(network, position, batch[:1], precision)
    with torch.inference_mode():
        forward_seconds = _seconds(lambda: _forward(network, position, batch, precision), precision)
    with torch.no_grad():
        outputs = _forward(network, position, batch, precision)
    saved_bytes, training_seconds = _measure_training(network, position, inputs, precision)
    cost = BlockCost(
        name=network.block_names[position],
        parameters=sum(parameter.numel() for parameter in network.block_parameters(position, position + 1)),
        forward_flops=flops.get_total_flops(),
        activation_bytes=outputs[0].numel() * _ACTIVATION_BYTES,
        saved_bytes=saved_bytes // len(inputs),
        forward_seconds=forward_seconds / len(inputs),
        training_seconds=training_seconds / len(inputs),
    )
    return cost, outputs


def _measure_training(network: Network, position: int, inputs: Tensor, precision: Precision) -> tuple[int, float]:
    """Return the bytes that are kept for the backward pass of a batch, and the seconds of both passes."""
    training = precision.for_training(network)
    batch = training.to_device(inputs)
    network.train_only(range(position, len(network.block_names)))
    saved: dict[int, int] = {}

    def step() -> None:
        leaf = batch.detach().requires_grad_(position > 0 and batch.is_floating_point())
        out = _forward(network, position, leaf, training)
        out.backward(torch.ones_like(out))
        network.zero_grad()

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: _record(saved, tensor), lambda tensor: tensor):
        step()
    return sum(saved.values()), _seconds(step, precision)


def _forward(network: Network, position: int, inputs: Tensor, precision: Precision) -> Tensor:
    with precision.autocast():
        return network.run_blocks(inputs, position, position + 1)


def _record(saved: dict[int, int], tensor: Tensor) -> Tensor:
    """Record the memory that is kept for the backward pass: each storage once, and no weights."""
    if not isinstance(tensor, nn.Parameter):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return tensor


def _seconds(work: Callable[[], object], precision: Precision) -> float:
    """Return the median duration of a few rounds."""
    for _ in range(_WARM_UP):
        work()
    rounds = []
    for _ in range(_ROUNDS):
        _synchronize(precision)
        started = time.perf_counter()
        work()
        _synchronize(precision)
        rounds.append(time.perf_counter() - started)
    return sorted(rounds)[len(rounds) // 2]


def _synchronize(precision: Precision) -> None:
    if precision.device.type == "cuda":
        torch.cuda.synchronize(precision.device)
