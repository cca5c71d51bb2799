"""The result of a tuning run, and the contents of `run.json` and `metrics.json`."""

import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from unfreeze.contract.counted import counted
from unfreeze.contract.folders import count_by_reason
from unfreeze.contract.model.manifest import Provenance
from unfreeze.contract.versions import installed_versions
from unfreeze.tune.artifacts.checkpoint import LabeledFile, RunFacts
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.backbones.weights import Pretrained
from unfreeze.tune.data.dataset import TRAIN, Dataset, LabeledImage, printable, stored_path
from unfreeze.tune.data.folds import stratified_part
from unfreeze.tune.data.images import labels_of
from unfreeze.tune.data.inspection.inspection import Finding
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.evaluation.accuracy import METRIC_NAMES, Estimate, accuracy_by
from unfreeze.tune.evaluation.evaluate import Evaluation, fit_temperature
from unfreeze.tune.evaluation.metrics import abstain_threshold, report
from unfreeze.tune.ood.detector import ChosenScore, Detector, fit_detector
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.selection.choice import Choice
from unfreeze.tune.training.train import Training

_CALIBRATION_IMAGES = 200
_FINISHING_IMAGES = 2_000  # of training images, for export
_PACKAGES = ("unfreeze", "torch", "torchvision", "numpy", "pillow", "scikit-learn")


@dataclass(frozen=True, kw_only=True)
class TuningResult:
    """A tuned network and how well it classifies.

    Args:
        network: the tuned network.
        choice: how it was tuned, and why.
        evaluation: evaluation of the network on the validation images.
        probe_evaluation: evaluation of the probe that training started from, on the same images.
        temperature: divides the logits.
        test: evaluation on the test images; None if there are none.
        training: the finished training; None if the recipe is linear.
        abstain: confidence above which answers are precise enough, see `unfreeze.tune.evaluation.metrics`; None if not
            requested.
        detector: recognizes images unlike the training images; None if not requested.
    """

    network: Network
    choice: Choice
    evaluation: Evaluation
    probe_evaluation: Evaluation
    temperature: float
    test: Evaluation | None
    training: Training | None
    abstain: dict[str, Any] | None
    detector: Detector | None = None


@dataclass(frozen=True, kw_only=True)
class ThresholdOptions:
    """What thresholds are wanted.

    Args:
        abstain_precision: precision of the answers, 0 to 1; None if not requested.
        false_alarms: share of images like the validation images that are reported as out of distribution; 0 if not
            requested.
    """

    abstain_precision: float | None = None
    false_alarms: float = 0.0


def calibrated_result(
    network: Network,
    choice: Choice,
    evaluations: Sequence[Evaluation],
    test: Evaluation | None,
    training: Training | None,
    thresholds: ThresholdOptions,
    score: ChosenScore,
) -> TuningResult:
    """Fit the temperature and the thresholds on the validation images.

    Args:
        network: the tuned network.
        choice: how it was tuned.
        evaluations: evaluations on the validation images: the network's first, the probe's last.
        test: evaluation on the test images; None if there are none.
        training: the finished training; None if the recipe is linear.
        thresholds: what thresholds are wanted.
        score: recognizes images unlike the training images.
    """
    evaluation = evaluations[0]
    temperature = fit_temperature(evaluation)
    detector = abstain = None
    if thresholds.false_alarms:
        detector = fit_detector(score, evaluation, evaluations[-1], temperature, thresholds.false_alarms)
    if thresholds.abstain_precision is not None:
        abstain = _abstain(evaluation, temperature, thresholds.abstain_precision, detector)
    return TuningResult(
        network=network,
        choice=choice,
        evaluation=evaluation,
        probe_evaluation=evaluations[-1],
        temperature=temperature,
        test=test,
        training=training,
        abstain=abstain,
        detector=detector,
    )


def _abstain(evaluation: Evaluation, temperature: float, precision: float, detector: Detector | None) -> dict[str, Any]:
    """Fit the threshold on the images that are not out of distribution: the others are unsure anyway."""
    probabilities, truth = evaluation.probabilities(temperature), evaluation.labels.numpy()
    if detector is None or not len(detector.accepted):
        return abstain_threshold(probabilities, truth, precision)
    accepted = detector.accepted
    found = abstain_threshold(probabilities[accepted], truth[accepted], precision)
    left_out = len(detector.scored) - len(accepted)
    found["coverage"] *= len(accepted) / len(detector.scored)
    found["message"] += f"; {counted(left_out, 'image')} out of distribution {'is' if left_out == 1 else 'are'} unsure"
    return found


def build_facts(dataset: Dataset, pretrained: Pretrained, options: TuneOptions, result: TuningResult) -> RunFacts:
    """Build the contents of `run.json`."""
    training_images = dataset.splits[TRAIN]
    labels = labels_of(training_images).numpy()
    calibration, finishing = (
        stratified_part(labels, count, options.seed, least=1) for count in (_CALIBRATION_IMAGES, _FINISHING_IMAGES)
    )
    return RunFacts(
        labels=dataset.labels,
        preprocess=pretrained.spec,
        temperature=result.temperature,
        link=result.network.head.link,
        pooling=options.pooling,
        abstain_below=None if result.abstain is None else result.abstain["threshold"],
        ood=None if result.detector is None else result.detector.facts(),
        provenance=Provenance(
            backbone=pretrained.backbone,
            weights=pretrained.weights,
            weights_sha256=pretrained.sha256,
            cut=result.choice.candidate.cut,
            seed=options.seed,
            images=len(training_images),
            versions=_versions(pretrained.backbone),
        ),
        metrics=_headline_metrics(result),
        data=str(dataset.root.absolute()),
        val=_files(result.evaluation.images, dataset.root),
        calibration=_files([training_images[row] for row in calibration], dataset.root),
        training=_files([training_images[row] for row in finishing], dataset.root),
    )


def build_metrics(
    dataset: Dataset,
    pretrained: Pretrained,
    options: TuneOptions,
    result: TuningResult,
    findings: Sequence[Finding],
    precision: Precision,
) -> dict[str, Any]:
    """Build the contents of `metrics.json`, except for `metric`, `flipped` and `seconds`."""
    network, candidate, training = result.network, result.choice.candidate, result.training
    return _headline_metrics(result) | {
        "standard_errors": {name: found.standard_error for name, found in _accuracies(result).items()},
        "recipe": candidate.recipe,
        "cut": candidate.cut,
        "learning_rate": candidate.learning_rate,
        "reason": result.choice.reason,
        "survey": [asdict(depth) for depth in result.choice.depths],
        "candidates": [asdict(score) for score in result.choice.scores],
        "backbone": pretrained.backbone,
        "weights": pretrained.weights,
        "weights_license": pretrained.license,
        "labels": list(dataset.labels),
        "images": {name: len(images) for name, images in dataset.splits.items()},
        "class_images": {
            name: labels_of(images).bincount(minlength=len(dataset.labels)).tolist()
            for name, images in dataset.splits.items()
        },
        "findings": [finding.excerpt() for finding in findings],
        "ignored": count_by_reason(dataset.ignored),
        "skipped": [{"path": printable(item.path), "reason": item.reason} for item in dataset.skipped],
        "trained_parameters": training.trained_parameters if training else _size(network.head),
        "parameters": _size(network),
        "val_nll": result.evaluation.negative_log_likelihood(result.temperature),
        **report(result.evaluation, dataset.labels, result.temperature),
        **({} if result.test is None else {"test_classes": len(result.test.labels.unique())}),
        "abstain": result.abstain,
        "ood": None if result.detector is None else result.detector.metrics(),
        "epochs": [asdict(epoch) for epoch in training.epochs] if training else [],
        "batch_size": training.batch_size if training else None,
        "device": str(precision.device),
        "precision": str(precision.dtype).removeprefix("torch."),
        "options": asdict(options),
    }


def _versions(backbone: str) -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed; timm's for timm's networks."""
    source = ("timm",) if backbone.startswith(("timm/", "hf-hub:")) else ()
    return {"python": platform.python_version()} | installed_versions(*_PACKAGES, *source)


def _headline_metrics(result: TuningResult) -> dict[str, float]:
    accuracies = {name: found.mean for name, found in _accuracies(result).items()}
    return accuracies | {"temperature": result.temperature}


def _accuracies(result: TuningResult) -> dict[str, Estimate]:
    """Return accuracy and balanced accuracy on the validation images, of the probe on them, and on the test images."""
    evaluations = {"val": result.evaluation, "probe_val": result.probe_evaluation, "test": result.test}
    return {
        f"{name}_{METRIC_NAMES[metric].replace(' ', '_')}": accuracy_by(metric, evaluation)
        for name, evaluation in evaluations.items()
        if evaluation is not None
        for metric in METRIC_NAMES
    }


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _files(images: Iterable[LabeledImage], root: Path) -> tuple[LabeledFile, ...]:
    return tuple(LabeledFile(path=stored_path(one.path, root), label=one.label) for one in images)
