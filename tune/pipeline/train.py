"""Train the blocks of the chosen candidate."""

import copy

import numpy as np
import torch
from torch import Tensor

from unfreeze.contract.counted import counted
from unfreeze.tune.artifacts.journal import Journal
from unfreeze.tune.artifacts.resume import TRAINING
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.backbones.sources import find_backbone
from unfreeze.tune.data.dataset import TRAIN
from unfreeze.tune.data.folds import stratified_part
from unfreeze.tune.data.images import labels_of
from unfreeze.tune.distillation.lesson import TeacherAnswers
from unfreeze.tune.features.activations import ActivationSource, Cached, PartlyCached, Streamed
from unfreeze.tune.features.cache import cache_activations, cache_bytes
from unfreeze.tune.features.extract import ExtractedFeatures
from unfreeze.tune.features.joined import Joined
from unfreeze.tune.features.shards import Shard
from unfreeze.tune.pipeline.context import RunContext
from unfreeze.tune.recipes.registry import block_recipe
from unfreeze.tune.selection.candidate import Candidate
from unfreeze.tune.training.optimization import Schedule
from unfreeze.tune.training.train import Training

_HELD_OUT_SHARE = 10  # a tenth of the images is held out for early stopping


def train_candidate(
    context: RunContext,
    candidate: Candidate,
    probed: Network,
    extracted: ExtractedFeatures | None,
    answers: TeacherAnswers | None = None,
) -> Training:
    """Train the blocks of a candidate, from the start or from where an interrupted run stopped.

    Args:
        context: state of the run.
        candidate: a candidate whose recipe trains blocks.
        probed: pretrained network with the probe as its head; it is not changed.
        extracted: features and activations of the training images; None if they were extracted before an interruption.
        answers: of a teacher, for a taught candidate.

    Returns:
        The finished training, whose `network` is trained.

    Raises:
        DivergenceError: weights or loss are not finite.
        CheckpointError: the state of the run is damaged, or cannot be written.
    """
    source, network = _source(context, candidate, extracted), _initial_network(context, candidate, probed)
    training = _prepare(context, candidate, network, source, answers)
    interrupted = context.resume_state.load(TRAINING)
    context.workers.barrier()
    if interrupted is not None:
        training.restore(interrupted)
        context.reporter.info(f"resuming after epoch {len(training.epochs)}")
    if context.workers.is_leader:
        _run_logged(context, candidate, training)
    else:
        training.run()
    return training


def _initial_network(context: RunContext, candidate: Candidate, probed: Network) -> Network:
    """Return the network to train: a copy of the pretrained one, or one with random weights."""
    if block_recipe(candidate.recipe).pretrained:
        return copy.deepcopy(probed)
    options, pretrained = context.options, context.pretrained
    torch.manual_seed(options.seed)
    model = find_backbone(options.backbone).build(pretrained.spec.shape[:2])
    network = Network(options.backbone, model, pretrained.spec, len(context.dataset.labels), options.pooling)
    return network.to(context.precision.device).to(memory_format=torch.channels_last)


def _source(context: RunContext, candidate: Candidate, extracted: ExtractedFeatures | None) -> ActivationSource:
    """Return the activations to train on."""
    network, images = context.network, context.own_images
    position = network.position(candidate.cut)
    if extracted is not None:
        source = extracted.source_at(position, context.placement, context.reporter)
    else:
        streamed = Streamed(
            network=network,
            position=position,
            images=images,
            recipe=context.views,
            precision=context.precision,
            labels=labels_of(images),
            stored=context.training_rows,
        )
        source = cache_activations(streamed, context.placement, context.reporter)
    if not isinstance(source, Cached):
        kept = len(source.rows) if isinstance(source, PartlyCached) else 0
        size = cache_bytes(network, position, len(images), context.options.views) / 1e9
        context.reporter.info(
            f"the activations at {candidate.cut} need {size:.1f} GB, more than --cache-gb {context.options.cache_gb:g} "
            f"holds: those of {counted(kept, 'image')} are cached; {len(images) - kept:,} are decoded and run through "
            "the frozen blocks again in every epoch"
        )
    if context.workers.count == 1:
        return source
    return Shard(own=source, labels=labels_of(context.dataset.splits[TRAIN]), workers=context.workers)


def _prepare(
    context: RunContext,
    candidate: Candidate,
    network: Network,
    source: ActivationSource,
    answers: TeacherAnswers | None,
) -> Training:
    options, recipe = context.options, block_recipe(candidate.recipe)
    epochs = options.epochs_for(len(source.labels), recipe.epoch_factor)
    rows = _held_out_rows(context, source.labels) if options.patience else np.empty(0, np.int64)
    kept = np.setdiff1d(np.arange(len(source.labels)), rows)
    source, held_out = (source.take(kept), source.take(rows)) if len(rows) else (source, None)
    lesson = None if answers is None else answers.lesson(candidate.temperature, candidate.teacher_weight, kept)
    if answers is not None:
        source = _with_unlabeled(context, source, answers)
    return Training(
        network=network,
        source=source,
        schedule=Schedule(
            epochs=epochs,
            learning_rate=candidate.learning_rate,
            blocks=recipe.trained_blocks(network.position(candidate.cut), len(network.block_names)),
            adapts=recipe.adapts,
            flip=source.position == 0 and context.allows_flips,
            quarter_turns=source.position == 0 and context.options.quarter_turns,
        ),
        options=options,
        precision=context.precision,
        held_out=held_out,
        workers=context.workers,
        lesson=lesson,
    )


def _with_unlabeled(context: RunContext, source: ActivationSource, answers: TeacherAnswers) -> ActivationSource:
    """Add the images without a label, which only a teacher has answered."""
    if answers.extracted is None:
        return source
    others = answers.extracted.source_at(source.position, context.placement, context.reporter)
    return Joined(first=source, second=others)


def _held_out_rows(context: RunContext, labels: Tensor) -> np.ndarray:
    """Choose images for early stopping; none if every class has too few images."""
    rows = stratified_part(labels.numpy(), len(labels) / _HELD_OUT_SHARE, context.options.seed)
    if not len(rows):
        context.reporter.info(
            f"no class has {_HELD_OUT_SHARE} images, so none are held out and training does not stop early"
        )
    return rows


def _run_logged(context: RunContext, candidate: Candidate, training: Training) -> None:
    """Train to the end; after each epoch, save the state, log the epoch and advance the progress."""
    advance = context.reporter.track(f"training {candidate}", training.schedule.epochs)
    advance(len(training.epochs))
    with Journal(context.placement.folder, training.epochs) as journal:

        def after_epoch(done: Training) -> None:
            context.resume_state.save(TRAINING, done.state())
            journal.log(done.epochs[-1])
            advance(1)

        training.run(after_epoch)
