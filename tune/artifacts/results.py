"""What a finished run says of itself: the facts that export needs, and the figures that people read."""

import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unfreeze.contract.model.manifest import Provenance
from unfreeze.tune.artifacts.checkpoint import LabeledFile, RunFacts
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.backbones.weights import Pretrained
from unfreeze.tune.data.dataset import TRAIN, Dataset, LabeledImage, printable, stored_path
from unfreeze.tune.data.folds import stratified_part
from unfreeze.tune.data.images import labels_of
from unfreeze.tune.data.inspection import Finding
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.evaluation.evaluate import Evaluation, fit_temperature
from unfreeze.tune.evaluation.metrics import abstain_threshold, report
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.recipes.registry import recipe_of
from unfreeze.tune.selection.choose import Choice
from unfreeze.tune.training.train import Training

_CALIBRATION = 200
_PACKAGES = ("unfreeze", "torch", "torchvision", "numpy", "pillow", "scikit-learn")


@dataclass(frozen=True, kw_only=True)
class Results:
    """What tuning came to.

    Args:
        network: tuned.
        choice: how, and why so.
        evaluation: of the validation images.
        probe_evaluation: of the same, by the linear classifier of frozen features that it began from.
        temperature: what the logits are divided by.
        test: of the test images, where there are any.
        training: that came to the network; None where the recipe is linear.
        abstain: from which confidence on answers are right often enough, see `unfreeze.tune.evaluation.metrics`;
            None where it was not requested.
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
            images=len(trained),
            versions={name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        ),
        metrics=_figures(results),
        data=str(dataset.root.absolute()),
        val=_files(evaluation.images, dataset.root),
        calibration=_files([trained[row] for row in calibration], dataset.root),
    )


def _files(images: Iterable[LabeledImage], root: Path) -> tuple[LabeledFile, ...]:
    return tuple(LabeledFile(path=stored_path(one.path, root), label=one.label) for one in images)


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
        "images": {name: len(images) for name, images in dataset.splits.items()},
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
    """Calibrate on the validation images.

    Args:
        network: tuned.
        choice: how.
        evaluations: of the validation images by this network, and last by the probe that it began from.
        test: of the test images, where there are any.
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
