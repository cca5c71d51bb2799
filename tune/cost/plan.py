"""Say what each cut would cost, before paying for it."""

import io
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torchvision
from PIL import Image

from unfreeze.contract.cores import usable_cores
from unfreeze.contract.errors import ImageError
from unfreeze.contract.images.preprocess import PreprocessSpec, decode
from unfreeze.contract.reporting import Reporter, Silent
from unfreeze.tune.backbones.network import ALL, HEAD
from unfreeze.tune.backbones.weights import load_pretrained
from unfreeze.tune.cost.measure import BlockCost, measure_blocks, measure_evaluation
from unfreeze.tune.data.dataset import TRAIN, VAL, read_dataset
from unfreeze.tune.data.fingerprints import DECODED_SIDE
from unfreeze.tune.data.views import Views, make_views
from unfreeze.tune.device.precision import choose_precision
from unfreeze.tune.features.placement import CACHES
from unfreeze.tune.options import TuneOptions

_TIMED_BATCH = 16
_TIMED_IMAGES = 32
_OPTIMIZER_COPIES = 3  # gradients, and AdamW's two moments
_FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be learned.

    Args:
        classes: how many.
        images: to train on.
        val_images: to validate on.
        load_seconds: of one image, with all cores at work: inspecting it, decoding it, and making its views.
    """

    classes: int
    images: int
    val_images: int
    load_seconds: float


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a network costs on the device at hand.

    Args:
        blocks: each block.
        stock_parameters: of torchvision's own network, with its classifier.
        image_bytes: of a prepared image, which is what a cache before the first block holds.
        evaluation_seconds: of one image through all of it in float32.
    """

    blocks: tuple[BlockCost, ...]
    stock_parameters: int
    image_bytes: int
    evaluation_seconds: float


@dataclass(frozen=True, kw_only=True)
class CutPlan:
    """What tuning from one cut would cost.

    Args:
        cut: "head", a block, or "all".
        trained_parameters: in the blocks behind the cut and the head.
        parameters: of the whole network.
        stock_parameters: of torchvision's own, whose classifier the head replaces.
        frozen_flops: of one image, forward through the trunk.
        trained_flops: of one image, forward through the tail; training takes about three times as many.
        cache_bytes: of all images' views at the cut.
        memory_bytes: weights, gradients, optimizer, one batch's activations, and the cache where it is kept.
        epochs: passes over the images.
        seconds: predicted for the whole run with this cut and a learning rate, from the first image to the metrics;
            where a rate or a recipe is to be chosen, the trials come on top.
        naive_seconds: the same if the trunk ran, and images were decoded, anew in every epoch.
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


def plan(
    options: TuneOptions,
    *,
    data: str | os.PathLike[str] | None = None,
    classes: int = 10,
    images: int = 1000,
    reporter: Reporter | None = None,
) -> tuple[CutPlan, ...]:
    """Predict parameters, arithmetic, memory and seconds of every cut, from a short timed run on this device.

    Nothing is downloaded and nothing is trained: weights do not change what a network costs.

    Args:
        options: as tuning would get them; the cut does not matter.
        data: folder of labeled images; some of them are decoded to see how long that takes.
        classes: where there is no folder.
        images: to train on, where there is no folder; a fifth as many validate.
        reporter: shows progress.

    Returns:
        One plan a cut, from "head" to "all".

    Raises:
        DataError: the folder cannot be learned from.
        WeightsError: the backbone is unknown.
    """
    reporter = reporter or Silent()
    precision = choose_precision(options.device, options.precision)
    weights = options.weights if options.weights == "builtin" else "none"
    pretrained = load_pretrained(options.backbone, weights)
    task = _task(options, pretrained.spec, data, classes, images)
    network = pretrained.network(options.backbone, task.classes, precision.device)
    batch_size = min(options.batch_size_for(task.images), max(_TIMED_BATCH, precision.trunk_batch))
    with precision.kernels():
        costs = Costs(
            blocks=measure_blocks(network, precision, batch_size, reporter),
            stock_parameters=torchvision.models.get_model_weights(options.backbone).DEFAULT.meta["num_params"],
            image_bytes=math.prod(network.image_shape),
            evaluation_seconds=measure_evaluation(network, precision, batch_size),
        )
    head = sum(parameter.numel() for parameter in network.head.parameters())
    cuts = (HEAD, *reversed(network.block_names[1:]), ALL)
    return tuple(plan_cut(cut, costs, network.position(cut), head, task, options) for cut in cuts)


def plan_cut(cut: str, costs: Costs, position: int, head: int, task: Task, options: TuneOptions) -> CutPlan:
    """Work out what one cut costs.

    Args:
        cut: its name.
        costs: of the network.
        position: how many blocks lie before the cut.
        head: parameters of the head.
        task: what is to be learned.
        options: of tuning.
    """
    trunk, tail = costs.blocks[:position], costs.blocks[position:]
    forward, frozen = _total(costs.blocks, "forward_seconds"), _total(trunk, "forward_seconds")
    training, views = _total(tail, "training_seconds"), task.images * options.views
    load = task.load_seconds
    trained = sum(cost.parameters for cost in tail) + head
    weights = sum(cost.parameters for cost in costs.blocks) + head
    image_bytes = costs.blocks[position - 1].activation_bytes if position else costs.image_bytes
    cache = image_bytes * views
    is_kept = cache <= options.cache_gb * 1e9 / CACHES
    naive = load / options.views + frozen + training
    epochs = options.epochs_for(task.images)
    batch = options.batch_size_for(task.images) * sum(cost.saved_bytes for cost in tail)
    once = task.images * load + views * forward + task.val_images * (load / options.views + costs.evaluation_seconds)
    return CutPlan(
        cut=cut,
        trained_parameters=trained,
        parameters=weights,
        stock_parameters=costs.stock_parameters,
        frozen_flops=sum(cost.forward_flops for cost in trunk),
        trained_flops=sum(cost.forward_flops for cost in tail),
        cache_bytes=cache,
        memory_bytes=weights * _FLOAT32_BYTES + trained * _OPTIMIZER_COPIES * _FLOAT32_BYTES + batch + cache * is_kept,
        epochs=epochs,
        seconds=once + task.images * epochs * (training if is_kept else naive) if tail else once,
        naive_seconds=once + task.images * epochs * naive,
    )


def _total(costs: tuple[BlockCost, ...], name: str) -> float:
    return math.fsum(getattr(cost, name) for cost in costs)


def _task(
    options: TuneOptions, spec: PreprocessSpec, data: str | os.PathLike[str] | None, classes: int, images: int
) -> Task:
    views = Views(spec=spec, count=options.views, seed=options.seed)
    if data is None:
        load = _load_seconds([("photograph.jpg", _photograph())] * _TIMED_IMAGES, views)
        return Task(classes=classes, images=images, val_images=images // 5, load_seconds=load)
    dataset = read_dataset(data, val_fraction=options.val_fraction, seed=options.seed)
    training = dataset.splits[TRAIN]
    some = training[:: max(1, len(training) // _TIMED_IMAGES)]
    return Task(
        classes=len(dataset.labels),
        images=len(training),
        val_images=len(dataset.splits[VAL]),
        load_seconds=_load_seconds([(image.path.name, image.path.read_bytes()) for image in some], views),
    )


def _load_seconds(images: list[tuple[str, bytes]], views: Views) -> float:
    """Time the making of views on all cores, as the cache is filled; what does not decode costs nothing."""

    def make(image: tuple[str, bytes]) -> None:
        with suppress(ImageError):
            decode(image[1], at_least=DECODED_SIDE)
            make_views(image[1], image[0], views)

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(make, images[:4]))  # warm up
        started = time.perf_counter()
        list(pool.map(make, images))
        return (time.perf_counter() - started) / len(images)


def _photograph() -> bytes:
    """Make a JPEG of a photograph's size, grain and weight."""
    noise = np.random.default_rng(0).normal(0, 12, (375, 500, 3))
    slope = np.linspace(40, 200, 500)[None, :, None]
    file = io.BytesIO()
    Image.fromarray((noise + slope).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()
