"""Estimate the cost of fine-tuning from one cut, from the measured costs of the blocks."""

import math
from dataclasses import dataclass

from unfreeze.tune.cost.measure import BlockCost
from unfreeze.tune.options import TuneOptions

_OPTIMIZER_COPIES = 3  # gradients, and two moments of AdamW
_FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Task:
    """Size of a dataset.

    Args:
        classes: number of classes.
        images: number of training images.
        val_images: number of validation images.
        load_seconds: seconds to inspect, decode and augment one image, with all cores in use.
    """

    classes: int
    images: int
    val_images: int
    load_seconds: float


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Measured costs of a network on this device.

    Args:
        blocks: cost of each block, in order from the input.
        stock_parameters: number of parameters of the source's network, with its classifier.
        image_bytes: size of a prepared image, which is what a cache before the first block contains.
        evaluation_seconds: seconds to run one image through the whole network in float32.
    """

    blocks: tuple[BlockCost, ...]
    stock_parameters: int
    image_bytes: int
    evaluation_seconds: float


@dataclass(frozen=True, kw_only=True)
class CutPlan:
    """Estimated cost of fine-tuning from one cut.

    Args:
        cut: "head", the name of a block, or "all".
        trained_parameters: number of parameters in the blocks after the cut and in the head.
        parameters: number of parameters of the whole network.
        stock_parameters: number of parameters of the source's network, whose classifier the head replaces.
        frozen_flops: FLOPs of the frozen blocks' forward pass for one image.
        trained_flops: FLOPs of the trained blocks' forward pass for one image; training needs about 3 times as many.
        cache_bytes: size of the activations of all images and views at the cut.
        memory_bytes: size of weights, gradients, optimizer state, one batch's activations, and the cache if it is kept.
        epochs: passes over the images.
        seconds: duration of a run with this cut and a given learning rate, from the first image to the metrics, without
            the trials that choose a learning rate or a recipe.
        naive_seconds: the same, if images were decoded and frozen blocks computed again in every epoch.
    """

    cut: str
    trained_parameters: int
    parameters: int
    stock_parameters: int
    frozen_flops: int
    trained_flops: int
    cache_bytes: int
    memory_bytes: int
    epochs: int
    seconds: float
    naive_seconds: float


def estimate_cut(cut: str, costs: Costs, position: int, head: int, task: Task, options: TuneOptions) -> CutPlan:
    """Estimate the cost of fine-tuning from one cut.

    Args:
        cut: its name.
        costs: of the network.
        position: number of blocks before the cut.
        head: number of parameters of the head.
        task: size of the dataset.
        options: options of the run.
    """
    trunk, tail = costs.blocks[:position], costs.blocks[position:]
    trained = sum(cost.parameters for cost in tail) + head
    weights = sum(cost.parameters for cost in costs.blocks) + head
    cache = _image_bytes(costs, position) * task.images * options.views
    kept = min(1.0, options.cache_gb * 1e9 / max(1, cache))
    batch = options.batch_size_for(task.images) * sum(cost.saved_bytes for cost in tail)
    once, cached_epoch, naive_epoch = _durations(costs, position, task, options)
    epochs = options.epochs_for(task.images)
    epoch = kept * cached_epoch + (1 - kept) * naive_epoch
    return CutPlan(
        cut=cut,
        trained_parameters=trained,
        parameters=weights,
        stock_parameters=costs.stock_parameters,
        frozen_flops=sum(cost.forward_flops for cost in trunk),
        trained_flops=sum(cost.forward_flops for cost in tail),
        cache_bytes=cache,
        memory_bytes=weights * _FLOAT32_BYTES
        + trained * _OPTIMIZER_COPIES * _FLOAT32_BYTES
        + batch
        + round(cache * kept),
        epochs=epochs,
        seconds=once + epochs * epoch if tail else once,
        naive_seconds=once + epochs * naive_epoch,
    )


def _image_bytes(costs: Costs, position: int) -> int:
    """Return the bytes of one image's activations in the cache."""
    return costs.blocks[position - 1].activation_bytes if position else costs.image_bytes


def _durations(costs: Costs, position: int, task: Task, options: TuneOptions) -> tuple[float, float, float]:
    """Return the seconds of everything but the epochs, of an epoch with a cache, and of one without."""
    forward = math.fsum(cost.forward_seconds for cost in costs.blocks)
    frozen = math.fsum(cost.forward_seconds for cost in costs.blocks[:position])
    training = math.fsum(cost.training_seconds for cost in costs.blocks[position:])
    load_view = task.load_seconds / options.views
    extraction = task.images * (task.load_seconds + options.views * forward)
    validation = task.val_images * (load_view + costs.evaluation_seconds)
    return extraction + validation, task.images * training, task.images * (load_view + frozen + training)
