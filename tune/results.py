"""What a finished run says of itself: the facts that export needs, and the figures that people read."""

import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contract.manifest import Provenance
from tune.checkpoint import LabelledFile, RunFacts
from tune.choose import Choice
from tune.dataset import TRAIN, Dataset, Picture, printable, stored_path
from tune.evaluate import Evaluation, fit_temperature, labels_of
from tune.findings import Finding
from tune.folds import stratified_part
from tune.network import Network
from tune.options import TuneOptions
from tune.precision import Precision
from tune.recipes import recipe_of
from tune.report import abstain_threshold, report
from tune.train import Training
from tune.weights import Pretrained

_CALIBRATION = 200
_PACKAGES = ("unfreeze", "torch", "torchvision", "numpy", "pillow", "scikit-learn")


@dataclass(frozen=True, kw_only=True)
class Results:
    """What tuning came to.

    Args:
        network: tuned.
        choice: how, and why so.
        evaluation: of the validation pictures.
        probe_evaluation: of the same, by the linear classifier of frozen features that it began from.
        temperature: what the logits are divided by.
        test: of the test pictures, where there are any.
        training: that came to the network; None where the recipe is linear.
        abstain: from which confidence on answers are right often enough, as `tune.report` tells; where somebody asked.
    """

    network: Network
    choice: Choice
    evaluation: Evaluation
    probe_evaluation: Evaluation
    temperature: float
    test: Evaluation | None
    training: Training | None
    abstain: dict[str, Any] | None


def facts_of(dataset: Dataset, pretrained: Pretrained, options: TuneOptions, results: Results) -> RunFacts:
    """Gather what `run.json` says."""
    evaluation, trained = results.evaluation, dataset.splits[TRAIN]
    calibration = stratified_part(labels_of(trained).numpy(), _CALIBRATION, options.seed, least=1)
    return RunFacts(
        labels=dataset.labels,
        preprocess=pretrained.spec,
        temperature=results.temperature,
        link=results.network.head.link,
        abstain_below=None if results.abstain is None else results.abstain["threshold"],
        provenance=Provenance(
            backbone=options.backbone,
            weights=pretrained.weights,
            weights_sha256=pretrained.sha256,
            cut=results.choice.candidate.cut,
            seed=options.seed,
            pictures=len(trained),
            versions={name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        ),
        metrics=_figures(results),
        data=str(dataset.root.absolute()),
        val=_files(evaluation.pictures, dataset.root),
        calibration=_files([trained[row] for row in calibration], dataset.root),
    )


def _files(pictures: Iterable[Picture], root: Path) -> tuple[LabelledFile, ...]:
    return tuple(LabelledFile(path=stored_path(one.path, root), label=one.label) for one in pictures)


def metrics_of(
    dataset: Dataset,
    pretrained: Pretrained,
    options: TuneOptions,
    results: Results,
    findings: Sequence[Finding],
    precision: Precision,
) -> dict[str, Any]:
    """Gather what `metrics.json` says."""
    network, candidate, training = results.network, results.choice.candidate, results.training
    blocks = recipe_of(candidate.recipe).blocks(network.position(candidate.cut), len(network.block_names))
    trained = [*(p for index in blocks for p in network.block_parameters(index, index + 1)), *network.head.parameters()]
    return _figures(results) | {
        "recipe": candidate.recipe,
        "cut": candidate.cut,
        "learning_rate": candidate.rate,
        "reason": results.choice.reason,
        "survey": [asdict(depth) for depth in results.choice.depths],
        "candidates": [asdict(score) for score in results.choice.scores],
        "backbone": options.backbone,
        "weights": pretrained.weights,
        "labels": list(dataset.labels),
        "pictures": {name: len(pictures) for name, pictures in dataset.splits.items()},
        "findings": [asdict(finding) for finding in findings],
        "skipped": [{"path": printable(item.path), "reason": item.reason} for item in dataset.skipped],
        "trained_parameters": sum(parameter.numel() for parameter in trained),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "val_nll": results.evaluation.negative_log_likelihood(results.temperature),
        **report(results.evaluation, dataset.labels, results.temperature),
        "abstain": results.abstain,
        "epochs": [asdict(epoch) for epoch in training.epochs] if training else [],
        "batch_size": training.batch_size if training else None,
        "device": str(precision.device),
        "precision": str(precision.dtype).removeprefix("torch."),
        "options": asdict(options),
    }


def _figures(results: Results) -> dict[str, float]:
    figures = {
        "val_accuracy": results.evaluation.accuracy,
        "probe_val_accuracy": results.probe_evaluation.accuracy,
        "temperature": results.temperature,
    }
    if results.test is not None:
        figures["test_accuracy"] = results.test.accuracy
    return figures


def finish(
    network: Network,
    choice: Choice,
    evaluations: Sequence[Evaluation],
    test: Evaluation | None,
    training: Training | None,
    abstain_precision: float | None,
) -> Results:
    """Calibrate on the validation pictures.

    Args:
        network: tuned.
        choice: how.
        evaluations: of the validation pictures by this network, and last by the probe that it began from.
        test: of the test pictures, where there are any.
        training: that came to the network; None where the recipe is linear.
        abstain_precision: how often answers are to be right, 0 to 1, where somebody asked.
    """
    evaluation = evaluations[0]
    temperature = fit_temperature(evaluation)
    abstain = None
    if abstain_precision is not None:
        probabilities = evaluation.probabilities(temperature)
        abstain = abstain_threshold(probabilities, evaluation.labels.numpy(), abstain_precision)
    return Results(
        network=network,
        choice=choice,
        evaluation=evaluation,
        probe_evaluation=evaluations[-1],
        temperature=temperature,
        test=test,
        training=training,
        abstain=abstain,
    )
