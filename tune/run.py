"""The whole of a tuning run: images in, a run's folder out."""

import copy
import os
import shutil
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfreeze.contract.errors import CheckpointError, DataError, DivergenceError
from unfreeze.contract.reporting import Reporter, Silent
from unfreeze.tune.artifacts.checkpoint import FACTS_FILE, METRICS_FILE, WEIGHTS_FILE, claimed, save_run
from unfreeze.tune.artifacts.journal import EVENTS, LINES, Journal
from unfreeze.tune.artifacts.results import Results, facts_of, finish, metrics_of
from unfreeze.tune.artifacts.resume import CHOICE, TRAINING, Unfinished
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.backbones.weights import Pretrained, load_pretrained
from unfreeze.tune.data.dataset import TEST, TRAIN, VAL, Dataset, read_dataset
from unfreeze.tune.data.folds import stratified_part
from unfreeze.tune.data.images import LabeledImage, labels_of
from unfreeze.tune.data.inspection import Finding, Inspection, inspect_dataset
from unfreeze.tune.data.views import Views
from unfreeze.tune.device.distributed import Workers, joined_workers
from unfreeze.tune.device.precision import Precision, choose_precision
from unfreeze.tune.evaluation.evaluate import Evaluation, evaluate, evaluate_together
from unfreeze.tune.features.cache import Source, Streamed, cache_bytes, keep
from unfreeze.tune.features.extract import ExtractedFeatures, extract_features
from unfreeze.tune.features.placement import CACHES, CachePlacement
from unfreeze.tune.features.shards import Shard
from unfreeze.tune.linear.probe import Probe, fit_probe
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.recipes.registry import LINEAR, PROBE, SCRATCH, recipe_of
from unfreeze.tune.selection.choose import (
    Choice,
    asked_candidate,
    choice_from,
    choice_state,
    choose,
    earliest_cut,
    wants_survey,
)
from unfreeze.tune.selection.flip_test import stays_itself
from unfreeze.tune.selection.trials import Candidate, Entered
from unfreeze.tune.training.train import Schedule, Training

_FOLDS = 3
_HELD_OUT_PARTS = 10


@dataclass(kw_only=True)
class _Run:
    """What one run holds while it goes on."""

    options: TuneOptions
    reporter: Reporter
    dataset: Dataset
    findings: tuple[Finding, ...]
    pretrained: Pretrained
    precision: Precision
    network: Network
    placement: CachePlacement
    unfinished: Unfinished
    workers: Workers

    @property
    def own(self) -> tuple[LabeledImage, ...]:
        """The training images of this process."""
        return self.dataset.splits[TRAIN][self.workers.rank :: self.workers.count]

    @property
    def views(self) -> Views:
        flip = self.options.views > 1 and self.flip
        return Views(spec=self.pretrained.spec, count=self.options.views, seed=self.options.seed, flip=flip)

    @cached_property
    def flip(self) -> bool:
        """Whether images may be flipped."""
        if self.options.flip != "auto":
            return self.options.flip == "yes"
        stays = stays_itself(self.network, self.dataset.splits[TRAIN], self.pretrained.spec, self.precision)
        told = "as well as" if stays else "not surely as well as"
        self.reporter.info(f"flipped, images are told {told} before, so they are {'' if stays else 'not '}flipped")
        return stays


def fine_tune(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: TuneOptions | None = None,
    reporter: Reporter | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Tune a pretrained network to labeled images.

    Started by torchrun, its processes share the work; the first one returns the metrics, the others what they know.

    Args:
        data: a folder per class, with or without train, val and test folders on top; or a CSV file with the columns
            `path`, `label` and, perhaps, `split`.
        out: the run's folder, made by this.
        options: how to tune.
        reporter: shows progress.
        overwrite: replace a run that is in `out` already, finished or not.
        resume: go on with the unfinished run that is in `out`.

    Returns:
        What `metrics.json` holds.

    Raises:
        DataError: the images cannot be learned from.
        WeightsError: the backbone or its weights cannot be had.
        CheckpointError: `out` holds a run already, or another process tunes into it, or it cannot be written, or there
            is no such block to cut at, or an unfinished run was begun with other data or options.
    """
    started, folder = time.monotonic(), Path(out)
    options, reporter = options or TuneOptions(), reporter or Silent()
    unfinished = Unfinished(folder)
    _check_folder(folder, unfinished, overwrite=overwrite, resume=resume)
    precision = choose_precision(options.device, options.precision)
    with joined_workers(precision.device) as workers, precision.kernels():
        run, inspection = _begin(data, unfinished, options, reporter if workers.leads else Silent(), precision, workers)
        if not workers.leads:
            workers.meet()
            _trained(run)
            return {}
        with claimed(folder):
            _start(run, folder, inspection, resume=resume)
            workers.meet()
            results = _tune(run)
            facts = facts_of(run.dataset, run.pretrained, options, results)
            metrics = metrics_of(run.dataset, run.pretrained, options, results, run.findings, precision)
            trained = results.training
            metrics["flipped"] = run.views.flip or (trained is not None and trained.schedule.flip)
            metrics["seconds"] = round(time.monotonic() - started, 2)
            save_run(folder, results.network, facts, metrics)
            unfinished.clear()
    return metrics


def _check_folder(folder: Path, unfinished: Unfinished, *, overwrite: bool, resume: bool) -> None:
    if overwrite and resume:
        raise CheckpointError("--overwrite begins anew and --resume goes on: say one of them")
    if (folder / FACTS_FILE).exists() and not overwrite:
        raise CheckpointError(f"{folder} holds a run already; choose another --out, or say --overwrite")
    if unfinished.exists() and not (overwrite or resume):
        raise CheckpointError(
            f"{folder} holds an unfinished run: go on with it by --resume, or begin anew by --overwrite"
        )
    if resume and not unfinished.exists():
        raise CheckpointError(f"{folder} holds no unfinished run to --resume")


def _begin(
    data: str | os.PathLike[str],
    unfinished: Unfinished,
    options: TuneOptions,
    reporter: Reporter,
    precision: Precision,
    workers: Workers,
) -> tuple[_Run, Inspection]:
    torch.manual_seed(options.seed)
    dataset = read_dataset(data, val_fraction=options.val_fraction, seed=options.seed)
    counts = ", ".join(f"{len(images):,} {name}" for name, images in dataset.splits.items())
    reporter.info(f"{len(dataset.labels)} classes; images: {counts}; {len(dataset.skipped)} files skipped")
    pretrained = load_pretrained(options.backbone, options.weights)
    network = pretrained.network(options.backbone, len(dataset.labels), precision.device)
    network.position(earliest_cut(network, options))
    if workers.count > 1 and (asked_candidate(options) is None or options.patience or options.mixup):
        raise CheckpointError(
            "several processes train what is decided: give --recipe, for last-blocks its --cut, and --learning-rate, "
            "and neither --patience nor --mixup"
        )
    inspection = inspect_dataset(dataset, _FOLDS, reporter)
    for finding in inspection.findings:
        reporter.info(finding.text)
    if options.strict and inspection.findings:
        raise DataError("; ".join(finding.text for finding in inspection.findings))
    run = _Run(
        options=options,
        reporter=reporter,
        dataset=dataset.without(inspection.undecodable),
        findings=inspection.findings,
        pretrained=pretrained,
        precision=precision,
        network=network,
        placement=CachePlacement(
            budget_bytes=round(options.cache_gb * 1e9 / CACHES),
            folder=unfinished.folder.parent,
            device=precision.device,
        ),
        unfinished=unfinished,
        workers=workers,
    )
    return run, inspection


def _start(run: _Run, folder: Path, inspection: Inspection, *, resume: bool) -> None:
    """Take up what there is, or begin with an empty folder."""
    about = run.options, inspection.contents, run.pretrained.sha256
    if resume:
        run.unfinished.check(*about)
        return
    for name in (FACTS_FILE, METRICS_FILE, WEIGHTS_FILE, LINES):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / EVENTS, ignore_errors=True)
    run.unfinished.begin(*about)


def _tune(run: _Run) -> Results:
    choice, probed, network, training = _trained(run)
    evaluations = _evaluations(run, choice, probed, network)
    images = run.dataset.splits.get(TEST)
    test = evaluate(network, images, run.pretrained.spec, run.precision.device) if images else None
    return finish(network, choice, evaluations, test, training, run.options.abstain_precision)


def _trained(run: _Run) -> tuple[Choice, Network, Network, Training | None]:
    """Do what every process does: choose, and train where the choice is to train.

    Returns:
        The choice, the network with the probe as its head, the one that was trained from it (the same where the choice
        is a linear recipe), and its training.
    """
    choice, probe, extracted = _decide(run)
    run.reporter.info(choice.reason)
    probed = copy.deepcopy(run.network)
    probe.put_into(probed.head)
    if choice.candidate.recipe in LINEAR:
        return choice, probed, probed, None
    network = _initial(run, choice, probed)
    return choice, probed, network, _train(run, network, choice, _source(run, choice.candidate, extracted))


def _decide(run: _Run) -> tuple[Choice, Probe, ExtractedFeatures | None]:
    """Choose on evidence, or read what was chosen before an interruption."""
    saved = run.unfinished.load(CHOICE)
    run.workers.meet()
    if saved is not None:
        return choice_from(saved["choice"]), Probe(**saved["probe"]), None
    asked = asked_candidate(run.options)
    extracted = _extract(run, wanted=None if asked is None else asked.cut)
    features = run.workers.collect(extracted.features, len(run.dataset.splits[TRAIN]))
    probe = _fit(run, features, asked.recipe if asked is not None and asked.recipe in LINEAR else PROBE)
    choice = _choose(run, extracted, probe) if asked is None else Choice(candidate=asked, reason=f"{asked}: as asked")
    if choice.candidate.recipe in LINEAR and asked is None and choice.candidate.recipe != PROBE:
        probe = _fit(run, features, choice.candidate.recipe)
    if run.workers.leads:
        run.unfinished.save(CHOICE, {"choice": choice_state(choice), "probe": vars(probe)})
    return choice, probe, extracted


def _fit(run: _Run, features: Tensor, kind: str) -> Probe:
    run.reporter.info(f"fitting {kind} on frozen features")
    balanced = run.options.class_weights == "balanced"
    labels = labels_of(run.dataset.splits[TRAIN])
    return fit_probe(features, labels, kind=kind, seed=run.options.seed, balanced=balanced)


def _choose(run: _Run, extracted: ExtractedFeatures, probe: Probe) -> Choice:
    entered = Entered(
        network=run.network,
        extracted=extracted,
        probe=probe,
        options=run.options,
        precision=run.precision,
        placement=run.placement,
        reporter=run.reporter,
        flip=lambda: run.flip,
    )
    return choose(entered)


def _extract(run: _Run, wanted: str | None) -> ExtractedFeatures:
    """Run all blocks over the training images once; activations are kept where they may be wanted."""
    extracted = extract_features(
        run.network,
        run.network.position(wanted or earliest_cut(run.network, run.options)),
        run.own,
        run.views,
        run.precision,
        run.placement,
        run.reporter.track("running the backbone over the training images", len(run.own)),
        survey=wanted is None and wants_survey(run.options),
    )
    run.dataset = run.dataset.without(extracted.skipped)
    return extracted


def _initial(run: _Run, choice: Choice, probed: Network) -> Network:
    """Give the network that training begins with."""
    if choice.candidate.recipe == SCRATCH:
        torch.manual_seed(run.options.seed)
        model = load_pretrained(run.options.backbone, "none").model
        network = Network(run.options.backbone, model, run.pretrained.spec, len(run.dataset.labels))
        return network.to(run.precision.device, memory_format=torch.channels_last)
    return copy.deepcopy(probed)


def _source(run: _Run, candidate: Candidate, extracted: ExtractedFeatures | None) -> Source:
    """Give the activations that training runs on."""
    position, own = run.network.position(candidate.cut), run.own
    if extracted is not None:
        source = extracted.source_at(position, run.placement, run.reporter)
    else:
        streamed = Streamed(
            network=run.network,
            position=position,
            images=own,
            recipe=run.views,
            precision=run.precision,
            labels=labels_of(own),
        )
        source = keep(streamed, run.placement, run.reporter)
    if isinstance(source, Streamed):
        size = cache_bytes(run.network, position, len(own), run.options.views) / 1e9
        run.reporter.info(
            f"the activations at {candidate.cut} would take {size:.1f} GB, and half of --cache-gb "
            f"{run.options.cache_gb:g} is less: images and frozen blocks are run anew in every epoch"
        )
    if run.workers.count == 1:
        return source
    return Shard(own=source, labels=labels_of(run.dataset.splits[TRAIN]), workers=run.workers)


def _train(run: _Run, network: Network, choice: Choice, source: Source) -> Training:
    options, candidate = run.options, choice.candidate
    recipe = recipe_of(candidate.recipe)
    epochs = options.epochs_for(len(source.labels), recipe.patience)
    held_out: Source | None = None
    if options.patience:
        count = len(source.labels)
        rows = stratified_part(source.labels.numpy(), count / _HELD_OUT_PARTS, options.seed)
        if len(rows):
            source, held_out = source.take(np.setdiff1d(np.arange(count), rows)), source.take(rows)
        else:
            run.reporter.info("no class has ten images: none is put aside, and training does not stop early")
    training = Training(
        network=network,
        source=source,
        schedule=Schedule(
            epochs=epochs,
            rate=candidate.rate,
            blocks=recipe.blocks(network.position(candidate.cut), len(network.block_names)),
            flip=source.position == 0 and run.flip,
        ),
        options=options,
        precision=run.precision,
        held_out=held_out,
        workers=run.workers,
    )
    before = run.unfinished.load(TRAINING)
    run.workers.meet()
    if before is not None:
        training.restore(before)
        run.reporter.info(f"going on behind epoch {len(training.epochs)}")
    if not run.workers.leads:
        training.run()
        return training
    advance = run.reporter.track(f"training: {candidate}", epochs)
    advance(len(training.epochs))
    with Journal(run.placement.folder, training.epochs) as journal:

        def note(done: Training) -> None:
            run.unfinished.save(TRAINING, done.state())
            journal.note(done.epochs[-1])
            advance(1)

        training.run(note)
    return training


def _evaluations(run: _Run, choice: Choice, probed: Network, network: Network) -> list[Evaluation]:
    """Classify the validation images with the network, and with the probe that it began from."""
    images = run.dataset.splits[VAL]
    networks = [network] if network is probed else [network, probed]
    shared = 0 if choice.candidate.recipe == SCRATCH else run.network.position(choice.candidate.cut)
    advance = run.reporter.track("evaluating in full precision", len(images))
    evaluations = evaluate_together(networks, shared, images, run.pretrained.spec, run.precision.device, advance)
    run.dataset = run.dataset.without(evaluations[0].skipped)
    if not evaluations[0].logits.isfinite().all():
        raise DivergenceError("training has come to answers that are no numbers; use a smaller --learning-rate")
    if evaluations[0].accuracy < evaluations[-1].accuracy:
        run.reporter.info(
            f"on the validation images this is below the probe ({evaluations[0].accuracy:.3f} < "
            f"{evaluations[-1].accuracy:.3f}); --recipe probe gives that one"
        )
    return evaluations
