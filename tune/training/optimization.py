"""Optimizers, learning rates and batches for training."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unfreeze.tune.backbones.network import Network
from unfreeze.tune.features.activations import BatchIndices
from unfreeze.tune.options import TuneOptions

_HEAD_LEARNING_RATES = {"adamw": 1e-3, "sgd": 1e-2}
_SGD_FACTOR = 10  # AdamW divides gradients by their magnitude; SGD needs larger steps
_MOMENTUM = 0.9
_INPUT_SHARE = 0.3  # learning rate toward the input, as a share of the last block's


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long to train, which blocks, and at which learning rate.

    Args:
        epochs: passes over the images.
        learning_rate: peak learning rate of the last block.
        blocks: numbers of the trained blocks.
        adapts: whether low-rank adapters of the blocks' attention are trained instead of the blocks.
        flip: whether images are flipped horizontally at random; activations never are.
        quarter_turns: whether images are rotated by random multiples of 90 degrees; activations never are.
    """

    epochs: int
    learning_rate: float
    blocks: Collection[int]
    adapts: bool = False
    flip: bool = False
    quarter_turns: bool = False


def shuffled_batches(count: int, views: int, batch_size: int, generator: torch.Generator) -> list[BatchIndices]:
    """Split a random permutation of the images, with a random view of each, into batches of nearly equal size."""
    rows = torch.randperm(count, generator=generator)
    view = torch.randint(views, (count,), generator=generator)
    batches = batches_per_epoch(count, batch_size)
    return list(zip(rows.tensor_split(batches), view.tensor_split(batches), strict=True))


def batches_per_epoch(count: int, batch_size: int) -> int:
    """Return the number of batches, of at least `batch_size` images each unless there are fewer."""
    return max(1, count // batch_size)


def warmup_cosine(step: int, warm_up: int, total: int) -> float:
    """Return the learning rate as a share of its peak: linear warm-up, then cosine decay to 0."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))


def parameter_groups(
    network: Network, schedule: Schedule, optimizer: str, layer_decay: float | None = None
) -> list[dict[str, Any]]:
    """Return the trained parameters with their learning rates, which decrease toward the input.

    Discriminative fine-tuning: Howard and Ruder 2018, arXiv:1801.06146. Norms and biases, the one-dimensional
    parameters, have no weight decay.

    Args:
        network: the network.
        schedule: the blocks, and the learning rate of the last block.
        optimizer: "adamw" or "sgd".
        layer_decay: learning rate of a block as a share of that of the next one; None for the default.
    """
    last, factor = len(network.block_names) - 1, _SGD_FACTOR if optimizer == "sgd" else 1
    decay = default_layer_decay(network, schedule) if layer_decay is None else layer_decay
    groups = _by_decay(list(network.head.parameters()), _HEAD_LEARNING_RATES[optimizer])
    for index in schedule.blocks:
        learning_rate = factor * schedule.learning_rate * decay ** (last - index)
        groups += _by_decay(list(network.block_parameters(index, index + 1)), learning_rate)
    return groups


def default_layer_decay(network: Network, schedule: Schedule) -> float:
    """Return the learning rate of a block as a share of that of the next one.

    Over all blocks of a network, the rate falls to 0.3. Adapters have the same rate everywhere.
    """
    return 1.0 if schedule.adapts else _INPUT_SHARE ** (1 / len(network.block_names))


def _by_decay(parameters: list[nn.Parameter], learning_rate: float) -> list[dict[str, Any]]:
    weights = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": weights, "lr": learning_rate},
        {"params": others, "lr": learning_rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(network: Network, schedule: Schedule, options: TuneOptions) -> torch.optim.Optimizer:
    """Build AdamW, or SGD with Nesterov momentum."""
    groups = parameter_groups(network, schedule, options.optimizer, options.layer_decay)
    if options.optimizer == "sgd":
        decay = options.weight_decay / _SGD_FACTOR
        return torch.optim.SGD(groups, momentum=_MOMENTUM, nesterov=True, weight_decay=decay)
    return torch.optim.AdamW(groups, weight_decay=options.weight_decay)


def class_weights(labels: Tensor) -> Tensor:
    """Return weights inversely proportional to the classes' frequencies: float32 [C]; their mean over images is 1."""
    counts = torch.bincount(labels).float()
    return len(labels) / (len(counts) * counts.clamp(min=1))
