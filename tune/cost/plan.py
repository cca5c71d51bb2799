"""Estimate, before training, what fine-tuning from each cut costs on this device."""

import math
import os

from unfreeze.contract.errors import OptionsError
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.contract.reporting import Reporter, Silent
from unfreeze.tune.backbones.network import ALL, HEAD
from unfreeze.tune.backbones.weights import Pretrained, load_pretrained
from unfreeze.tune.cost.estimate import Costs, CutPlan, Task, estimate_cut
from unfreeze.tune.cost.loading import measure_loading
from unfreeze.tune.cost.measure import measure_blocks, measure_evaluation
from unfreeze.tune.data.dataset import TRAIN, VAL, read_dataset
from unfreeze.tune.data.sources import SourceOptions
from unfreeze.tune.data.views import Views
from unfreeze.tune.device.precision import choose_precision
from unfreeze.tune.device.threads import limited_threads
from unfreeze.tune.options import TuneOptions

_TIMED_BATCH = 16
_VAL_SHARE = 5  # without a dataset, a fifth as many validation images as training images are assumed


def plan(
    options: TuneOptions,
    *,
    data: str | os.PathLike[str] | None = None,
    classes: int = 10,
    images: int = 1000,
    reporter: Reporter | None = None,
) -> tuple[CutPlan, ...]:
    """Estimate parameters, arithmetic, memory and duration for every cut, from a short timed run on this device.

    No weights are downloaded, because they do not change the cost, and nothing is trained.

    Args:
        options: options of the run; the cut does not matter.
        data: dataset; some of its images are loaded to measure the loading time.
        classes: number of classes if there is no dataset.
        images: number of training images if there is no dataset; a fifth as many validation images are assumed.
        reporter: shows progress.

    Returns:
        One plan per cut, from "head" to "all".

    Raises:
        DataError: the dataset cannot be used.
        OptionsError: a teacher is given, whose cost is not estimated.
        WeightsError: the backbone is unknown.
    """
    if options.teacher:
        raise OptionsError("the cost of asking a teacher is not estimated: leave out --teacher, or use tune")
    with limited_threads():
        weights = options.weights if options.weights == "builtin" else "none"
        pretrained = load_pretrained(options.backbone, weights, options.image_size, options.crop_pct)
        task = _task(options, pretrained.spec, data, classes, images)
        return _plan_cuts(options, pretrained, task, reporter or Silent())


def _plan_cuts(options: TuneOptions, pretrained: Pretrained, task: Task, reporter: Reporter) -> tuple[CutPlan, ...]:
    precision = choose_precision(options.device, options.precision)
    stock_parameters = sum(parameter.numel() for parameter in pretrained.model.parameters())
    network = pretrained.network(options.backbone, task.classes, precision.device, options.pooling)
    batch_size = min(options.batch_size_for(task.images), max(_TIMED_BATCH, precision.trunk_batch))
    with precision.kernels():
        costs = Costs(
            blocks=measure_blocks(network, precision, batch_size, reporter),
            stock_parameters=stock_parameters,
            image_bytes=math.prod(network.image_shape),
            evaluation_seconds=measure_evaluation(network, precision, batch_size),
        )
    head = sum(parameter.numel() for parameter in network.head.parameters())
    cuts = (HEAD, *reversed(network.block_names[1:]), ALL)
    return tuple(estimate_cut(cut, costs, network.position(cut), head, task, options) for cut in cuts)


def _task(
    options: TuneOptions, spec: PreprocessSpec, data: str | os.PathLike[str] | None, classes: int, images: int
) -> Task:
    views = Views(spec=spec, count=options.views, seed=options.seed)
    if data is None:
        load_seconds = measure_loading((), views)
        return Task(classes=classes, images=images, val_images=images // _VAL_SHARE, load_seconds=load_seconds)
    source = SourceOptions.of(options)
    dataset = read_dataset(data, val_fraction=options.val_fraction, seed=options.seed, options=source)
    return Task(
        classes=len(dataset.labels),
        images=len(dataset.splits[TRAIN]),
        val_images=len(dataset.splits[VAL]),
        load_seconds=measure_loading(dataset.splits[TRAIN], views),
    )
