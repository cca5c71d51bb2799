"""The whole of a tuning run: pictures in, a run's folder out."""

import copy
import os
import platform
import time
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contract.errors import CheckpointError
from contract.manifest import Provenance
from contract.reporting import Reporter, Silent
from tune.cache import Cached, Room, cache_at, fill_cache, pooled_features
from tune.checkpoint import FACTS_FILE, LabelledFile, RunFacts, claimed, save_run
from tune.choose import Candidate, CutScore, candidate_cuts, chosen_candidate, needs_choice, score_candidates
from tune.dataset import TEST, TRAIN, VAL, Dataset, printable, read_dataset
from tune.evaluate import Evaluation, evaluate, evaluate_together, fit_temperature
from tune.network import HEAD, Network
from tune.options import TuneOptions
from tune.precision import Precision, choose_precision
from tune.probe import Probe, fit_probe
from tune.report import report
from tune.train import Epoch, train_network
from tune.views import Views
from tune.weights import Pretrained, load_pretrained

_PACKAGES = ("unfreeze", "torch", "torchvision", "numpy", "pillow", "scikit-learn")


@dataclass(kw_only=True)
class _Run:
    """What one run holds while it goes on."""

    options: TuneOptions
    reporter: Reporter
    dataset: Dataset
    pretrained: Pretrained
    precision: Precision
    network: Network
    chosen: Candidate
    scores: tuple[CutScore, ...] = ()
    epochs: list[Epoch] = field(default_factory=list)


def tune(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: TuneOptions | None = None,
    reporter: Reporter | None = None,
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Tune a pretrained network to a folder of labelled pictures.

    Args:
        data: a folder per class, with or without train, val and test folders on top.
        out: the run's folder, made by this.
        options: how to tune.
        reporter: shows progress.
        overwrite: replace a run that is in `out` already.

    Returns:
        What `metrics.json` holds.

    Raises:
        DataError: the pictures cannot be learned from.
        WeightsError: the backbone or its weights cannot be had.
        CheckpointError: `out` holds a run already, or another process tunes into it, or it cannot be written, or there
            is no such block to cut at.
    """
    started, folder = time.monotonic(), Path(out)
    if (folder / FACTS_FILE).exists() and not overwrite:
        raise CheckpointError(f"{folder} holds a run already; choose another --out, or say --overwrite")
    run = _begin(data, options or TuneOptions(), reporter or Silent())
    with claimed(folder):
        network, evaluation, figures = _tune(run, folder)
        facts = _facts(run, evaluation, figures)
        metrics = _metrics(run, evaluation, figures) | {"seconds": round(time.monotonic() - started, 2)}
        save_run(folder, network, facts, metrics)
    return metrics


def _begin(data: str | os.PathLike[str], options: TuneOptions, reporter: Reporter) -> _Run:
    torch.manual_seed(options.seed)
    precision = choose_precision(options.device)
    dataset = read_dataset(data, val_fraction=options.val_fraction, seed=options.seed)
    counts = ", ".join(f"{len(pictures):,} {name}" for name, pictures in dataset.splits.items())
    reporter.say(f"{len(dataset.labels)} classes; pictures: {counts}; {len(dataset.skipped)} files skipped")
    pretrained = load_pretrained(options.backbone, options.weights)
    network = Network(options.backbone, pretrained.model, pretrained.spec, len(dataset.labels))
    network = network.eval().to(precision.device, memory_format=torch.channels_last)
    if options.cut != "auto":
        network.position(options.cut)
    return _Run(
        options=options,
        reporter=reporter,
        dataset=dataset,
        pretrained=pretrained,
        precision=precision,
        network=network,
        chosen=chosen_candidate((), options),
    )


def _tune(run: _Run, folder: Path) -> tuple[Network, Evaluation, dict[str, float]]:
    choosing, views = needs_choice(run.options), run.options.views
    first = min(run.network.position(cut) for cut in candidate_cuts(run.network, run.options.cut))
    cached, features = _gather(run, folder, first, 1 if choosing else views)
    run.reporter.say("fitting the probe on frozen features")
    probe = fit_probe(features[:, 0], cached.labels, seed=run.options.seed)
    if choosing:
        _choose(run, cached, features)
        if run.chosen.cut != HEAD and views > 1:
            del cached, features  # the next ones want the room
            cached, features = _gather(run, folder, run.network.position(run.chosen.cut), views)
    cached = cache_at(run.network, cached, features, run.network.position(run.chosen.cut), run.precision)
    probed = copy.deepcopy(run.network)
    probe.put_into(probed.head)
    _train(run, cached, features, probe)
    return _better(run, probed)


def _choose(run: _Run, cached: Cached, features: Tensor) -> None:
    run.scores = score_candidates(run.network, cached, features, run.options, run.precision, run.reporter)
    run.chosen = chosen_candidate(run.scores, run.options)
    tried = ", ".join(
        f"{score.cut} at rate {score.learning_rate:g} {score.accuracy:.3f}±{score.standard_error:.3f}"
        for score in run.scores
    )
    run.reporter.say(
        f"chosen: {run.chosen.cut} at rate {run.chosen.rate:g} (cross-validated: {tried or 'too few pictures to tell'})"
    )


def _gather(run: _Run, folder: Path, position: int, views: int) -> tuple[Cached, Tensor]:
    """Run the blocks before `position` over the training pictures' views, and the rest for their pooled features."""
    pictures = run.dataset.splits[TRAIN]
    cached = fill_cache(
        run.network,
        position,
        pictures,
        Views(spec=run.pretrained.spec, count=views, seed=run.options.seed),
        run.precision,
        Room(memory_bytes=round(run.options.cache_gb * 1e9), folder=folder),
        run.reporter.track(f"running the frozen blocks, {views} views a picture", len(pictures)),
    )
    run.dataset = run.dataset.without(cached.skipped)
    return cached, pooled_features(run.network, cached, run.precision)


def _train(run: _Run, cached: Cached, features: Tensor, probe: Probe) -> None:
    options = replace(run.options, learning_rate=run.chosen.rate)
    advance = run.reporter.track(f"training from {run.chosen.cut}", 0 if run.chosen.cut == HEAD else options.epochs)

    def note(epoch: Epoch) -> None:
        run.epochs.append(epoch)
        advance(1 if epoch.stage == "blocks" else 0)

    train_network(run.network, cached, features, probe, options, run.precision, note)


def _better(run: _Run, probed: Network) -> tuple[Network, Evaluation, dict[str, float]]:
    """Keep the probe where training made it worse on validation."""
    pictures = run.dataset.splits[VAL]
    advance = run.reporter.track("evaluating in full precision", len(pictures))
    networks, shared = (probed, run.network), run.network.position(run.chosen.cut)
    before, after = evaluate_together(networks, shared, pictures, run.pretrained.spec, run.precision.device, advance)
    run.dataset = run.dataset.without(before.skipped)
    kept_probe = after.accuracy < before.accuracy
    network, evaluation = (probed, before) if kept_probe else (run.network, after)
    if kept_probe:
        run.reporter.say(
            f"training ended below the probe ({after.accuracy:.3f} < {before.accuracy:.3f}): keeping the probe"
        )
        run.chosen = Candidate(HEAD, run.chosen.rate)
    figures = {
        "val_accuracy": evaluation.accuracy,
        "probe_val_accuracy": before.accuracy,
        "trained_val_accuracy": after.accuracy,
        "temperature": fit_temperature(evaluation),
    }
    if TEST in run.dataset.splits:
        tested = evaluate(network, run.dataset.splits[TEST], run.pretrained.spec, run.precision.device)
        run.dataset = run.dataset.without(tested.skipped)
        figures["test_accuracy"] = tested.accuracy
    return network, evaluation, figures


def _facts(run: _Run, evaluation: Evaluation, figures: dict[str, float]) -> RunFacts:
    root = run.dataset.root
    val = (
        LabelledFile(path=picture.path.relative_to(root).as_posix(), label=picture.label)
        for picture in evaluation.pictures
    )
    return RunFacts(
        labels=run.dataset.labels,
        preprocess=run.pretrained.spec,
        temperature=figures["temperature"],
        provenance=Provenance(
            backbone=run.options.backbone,
            weights=run.pretrained.weights,
            weights_sha256=run.pretrained.sha256,
            cut=run.chosen.cut,
            seed=run.options.seed,
            pictures=len(run.dataset.splits[TRAIN]),
            versions={name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        ),
        metrics=figures,
        data=str(root.absolute()),
        val=tuple(val),
    )


def _metrics(run: _Run, evaluation: Evaluation, figures: dict[str, float]) -> dict[str, Any]:
    position = run.network.position(run.chosen.cut)
    trained = [*run.network.block_parameters(position), *run.network.head.parameters()]
    return figures | {
        "cut": run.chosen.cut,
        "learning_rate": run.chosen.rate,
        "cut_scores": [asdict(score) for score in run.scores],
        "backbone": run.options.backbone,
        "weights": run.pretrained.weights,
        "labels": list(run.dataset.labels),
        "pictures": {name: len(pictures) for name, pictures in run.dataset.splits.items()},
        "skipped": [{"path": printable(item.path), "reason": item.reason} for item in run.dataset.skipped],
        "trained_parameters": sum(parameter.numel() for parameter in trained),
        "parameters": sum(parameter.numel() for parameter in run.network.parameters()),
        "val_nll": evaluation.negative_log_likelihood(figures["temperature"]),
        **report(evaluation, run.dataset.labels, figures["temperature"]),
        "epochs": [asdict(epoch) for epoch in run.epochs],
        "device": str(run.precision.device),
        "precision": str(run.precision.dtype).removeprefix("torch."),
        "options": asdict(run.options),
    }
