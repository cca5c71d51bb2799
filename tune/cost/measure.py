"""Measure what each block of a network costs, on the device at hand."""

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
    """What one block costs.

    Args:
        name: of the block.
        parameters: how many it has.
        forward_flops: of one image, forward; a multiplication and an addition are two.
        activation_bytes: of one image behind it, as the cache keeps them.
        saved_bytes: of one image, what the backward pass needs kept.
        forward_seconds: of one image in inference.
        training_seconds: of one image, forward and backward.
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
    """Run every block forward, and forward and backward, a few times.

    Args:
        network: on the precision's device; left as it is, but for statistics of its norms.
        precision: as tuning would choose it.
        batch_size: images at a time.
        reporter: shows progress.

    Returns:
        One cost a block, in order from the input.
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
    """Time one image through the whole network in float32, in seconds, as evaluation runs it."""
    shape = (batch_size, *network.image_shape)
    batch = torch.zeros(shape, dtype=torch.uint8, device=precision.device)
    with torch.inference_mode():
        return _seconds(lambda: network.eval()(batch), precision) / batch_size


def _measure(network: Network, position: int, inputs: Tensor, precision: Precision) -> tuple[BlockCost, Tensor]:
    training = precision.for_training(network)
    count = len(inputs)
    network.eval()
    served, prepared = precision.lay_out(inputs), training.lay_out(inputs)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        _forward(network, position, served[:1], precision)
    with torch.inference_mode():
        forward_seconds = _seconds(lambda: _forward(network, position, served, precision), precision)
    with torch.no_grad():
        outputs = _forward(network, position, served, precision)
    network.train_only(range(position, len(network.block_names)))
    saved: dict[int, int] = {}

    def step() -> None:
        given = prepared.detach().requires_grad_(position > 0 and prepared.is_floating_point())
        out = _forward(network, position, given, training)
        out.backward(torch.ones_like(out))
        network.zero_grad()

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: _note(saved, tensor), lambda tensor: tensor):
        step()
    cost = BlockCost(
        name=network.block_names[position],
        parameters=sum(parameter.numel() for parameter in network.block_parameters(position, position + 1)),
        forward_flops=flops.get_total_flops(),
        activation_bytes=outputs[0].numel() * _ACTIVATION_BYTES,
        saved_bytes=sum(saved.values()) // count,
        forward_seconds=forward_seconds / count,
        training_seconds=_seconds(step, precision) / count,
    )
    return cost, outputs


def _forward(network: Network, position: int, inputs: Tensor, precision: Precision) -> Tensor:
    with precision.autocast():
        return network.run_blocks(inputs, position, position + 1)


def _note(saved: dict[int, int], tensor: Tensor) -> Tensor:
    """Count what the backward pass keeps, weights aside, each piece of memory once."""
    if not isinstance(tensor, nn.Parameter):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return tensor


def _seconds(work: Callable[[], object], precision: Precision) -> float:
    """Take the median of a few rounds."""
    for _ in range(_WARM_UP):
        work()
    rounds = []
    for _ in range(_ROUNDS):
        _wait(precision)
        started = time.perf_counter()
        work()
        _wait(precision)
        rounds.append(time.perf_counter() - started)
    return sorted(rounds)[len(rounds) // 2]


def _wait(precision: Precision) -> None:
    if precision.device.type == "cuda":
        torch.cuda.synchronize(precision.device)
