"""Try candidates on cross-validation folds of the training images."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from unfreeze.contract.errors import DivergenceError
from unfreeze.contract.reporting import Reporter
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.data.folds import Fold
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.distillation.lesson import TeacherAnswers
from unfreeze.tune.evaluation.accuracy import estimate
from unfreeze.tune.evaluation.evaluate import Evaluation
from unfreeze.tune.features.activations import ActivationSource
from unfreeze.tune.features.cache import pooled_features
from unfreeze.tune.features.extract import ExtractedFeatures
from unfreeze.tune.features.joined import Joined
from unfreeze.tune.features.placement import CachePlacement
from unfreeze.tune.linear.probe import Probe, fit_probe
from unfreeze.tune.linear.taught import fit_taught_probe
from unfreeze.tune.options import Metric, TuneOptions
from unfreeze.tune.recipes.registry import PROBE, block_recipe, is_linear, linear_recipe
from unfreeze.tune.selection.candidate import Candidate
from unfreeze.tune.selection.comparison import accuracy_gain, correct, labels_of_folds, lead
from unfreeze.tune.training.optimization import Schedule
from unfreeze.tune.training.train import Training

_ENOUGH_HELD_OUT = 190  # a fold of 600 images has 200, less what whole images of every class leave over
_FEW_ERRORS = 4.5  # a candidate that is one standard error better would have to make almost no errors


@dataclass(frozen=True, kw_only=True)
class SearchInputs:
    """Everything that the search needs.

    Args:
        network: pretrained; it is not changed.
        extracted: features and activations of the training images.
        probe: fitted on all training images.
        options: options of the run.
        precision: device and numeric type to compute in.
        placement: where to cache activations at later cuts.
        reporter: shows progress.
        allows_flips: returns whether images may be flipped; called only if images themselves are trained on.
        answers: of a teacher, for taught candidates.
    """

    network: Network
    extracted: ExtractedFeatures
    probe: Probe
    options: TuneOptions
    precision: Precision
    placement: CachePlacement
    reporter: Reporter
    allows_flips: Callable[[], bool]
    answers: TeacherAnswers | None = None

    @property
    def metric(self) -> Metric:
        """What candidates are compared by."""
        return self.options.metric_for(torch.bincount(self.extracted.labels).tolist())


@dataclass(kw_only=True)
class Trials:
    """Evaluations of candidates on the same held-out images.

    Args:
        inputs: of the search.
        folds: of the training images.
        evaluations: of each candidate, one per fold that it was tried on.
        diverged: candidates whose training diverged.
    """

    inputs: SearchInputs
    folds: Sequence[Fold]
    evaluations: dict[Candidate, list[Evaluation]] = field(default_factory=dict)
    diverged: set[Candidate] = field(default_factory=set)
    _source: ActivationSource | None = None
    _probes: dict[int, Probe] = field(default_factory=dict)
    _taught_probes: dict[tuple[int, float, float], Probe] = field(default_factory=dict)

    def run(self, candidate: Candidate, incumbent: Candidate | None = None, required_lead: float = 0.0) -> None:
        """Try a candidate, unless it was tried already.

        Linear candidates are tried on all folds, others on the fewest folds that hold out 190 images together.

        Args:
            candidate: to try.
            incumbent: stop after a fold at which the candidate is less accurate than this one, or less than
                half of the required lead.
            required_lead: in standard errors.
        """
        if candidate in self.evaluations:
            return
        linear = is_linear(candidate.recipe)
        folds = range(len(self.folds) if linear else self._training_folds())
        evaluate = self._evaluate_linear if linear else self._evaluate_trained
        advance = self.inputs.reporter.track(f"trying {candidate}", len(folds))
        self.evaluations[candidate] = []
        for number in folds:
            self.evaluations[candidate].append(evaluate(candidate, number))
            advance(1)
            if incumbent is not None and self._falls_behind(candidate, incumbent, required_lead):
                advance(len(folds) - len(self.evaluations[candidate]))
                break

    def correct(self, candidate: Candidate) -> np.ndarray:
        """Return which held-out images a candidate classified correctly: bool [n], fold after fold."""
        return correct(self.evaluations[candidate])

    def labels(self, candidate: Candidate) -> np.ndarray:
        """Return the labels of these images: int64 [n]."""
        return labels_of_folds(self.evaluations[candidate])

    def lead(self, candidate: Candidate, other: Candidate) -> float:
        """Return by how much a candidate is better on the images that both classified, see `comparison.lead`."""
        if candidate in self.diverged:
            return -math.inf
        return lead(*self._common(candidate, other), self.inputs.metric)

    def gain(self, candidate: Candidate, other: Candidate) -> float:
        """Return by how much a candidate is more accurate than another, in the metric, on the folds of both."""
        return accuracy_gain(*self._common(candidate, other), self.inputs.metric)

    def accuracy(self, candidate: Candidate) -> float:
        """Return the accuracy, or the balanced accuracy if that is the metric, on all images that were tried."""
        right = self.correct(candidate).astype(np.float64)
        return estimate(right, self.labels(candidate), self.inputs.metric).mean

    def is_nearly_perfect(self, candidate: Candidate) -> bool:
        """Return whether a candidate makes too few errors, weighted by the metric, for another to be clearly better."""
        return (1 - self.accuracy(candidate)) * len(self.labels(candidate)) < _FEW_ERRORS

    def source_at(self, position: int) -> ActivationSource:
        """Return the images' activations at a cut; the latest ones are kept in addition to the extracted ones."""
        if self._source is not None and self._source.position == position:
            return self._source
        self._source = None  # free the memory before the next ones are allocated
        source = self.inputs.extracted.source_at(position, self.inputs.placement, self.inputs.reporter)
        self._source = source
        return source

    def _falls_behind(self, candidate: Candidate, incumbent: Candidate, required_lead: float) -> bool:
        too_small = self.lead(candidate, incumbent) <= required_lead / 2
        return too_small or self.gain(candidate, incumbent) < 0

    def _common(self, candidate: Candidate, other: Candidate) -> tuple[list[Evaluation], list[Evaluation]]:
        """Return the evaluations on the folds that both were tried on."""
        own, others = self.evaluations[candidate], self.evaluations[other]
        return own[: len(others)], others[: len(own)]

    def _training_folds(self) -> int:
        held_out = np.cumsum([len(fold.held_out) for fold in self.folds])
        return min(len(self.folds), int(np.searchsorted(held_out, _ENOUGH_HELD_OUT)) + 1)

    def _probe(self, number: int) -> Probe:
        """Fit the probe of a fold once: it is a candidate, and every trial starts from it."""
        if number not in self._probes:
            self._probes[number] = self._fit(PROBE, self.folds[number], self.inputs.probe.inverse_regularization)
        return self._probes[number]

    def taught_probe(self, candidate: Candidate, number: int) -> Probe:
        """Fit the probe of a fold on a teacher's answers too, once for each temperature and weight."""
        key = number, candidate.temperature, candidate.teacher_weight
        if key not in self._taught_probes:
            inputs, fold, answers, unlabeled = self.inputs, self.folds[number], self._answers(), self._unlabeled()
            self._taught_probes[key] = fit_taught_probe(
                inputs.extracted.features[fold.train],
                inputs.extracted.labels[fold.train],
                answers.lesson(candidate.temperature, candidate.teacher_weight, fold.train, unlabeled),
                unlabeled=answers.features(unlabeled),
                inverse_regularization=inputs.probe.inverse_regularization,
                balanced=inputs.options.class_weights == "balanced",
            )
        return self._taught_probes[key]

    def _answers(self) -> TeacherAnswers:
        if self.inputs.answers is None:
            raise AssertionError("a taught candidate needs the answers of a teacher")
        return self.inputs.answers

    def _unlabeled(self) -> np.ndarray:
        """Choose the share of the images without a label that the folds have of the training images, evenly spaced."""
        total, fold = len(self._answers().unlabeled), self.folds[0]
        tried = len(fold.train) + len(fold.held_out)
        count = round(total * tried / len(self.inputs.extracted.labels))
        rows: np.ndarray = np.arange(count, dtype=np.int64) * total // max(1, count)
        return rows

    def _fit(self, recipe: str, fold: Fold, inverse_regularization: float | None = None) -> Probe:
        extracted, options = self.inputs.extracted, self.inputs.options
        return fit_probe(
            extracted.features[fold.train],
            extracted.labels[fold.train],
            recipe=linear_recipe(recipe),
            seed=options.seed,
            balanced=options.class_weights == "balanced",
            inverse_regularization=inverse_regularization,
        )

    def _evaluate_linear(self, candidate: Candidate, number: int) -> Evaluation:
        fold = self.folds[number]
        if candidate.is_taught:
            probe = self.taught_probe(candidate, number)
        else:
            probe = self._probe(number) if candidate.recipe == PROBE else self._fit(candidate.recipe, fold)
        logits = probe.classify(self.inputs.extracted.features[fold.held_out, 0])
        return _evaluation(logits, self.inputs.extracted.labels[fold.held_out], probe.link)

    def _evaluate_trained(self, candidate: Candidate, number: int) -> Evaluation:
        inputs, fold = self.inputs, self.folds[number]
        trial = copy.deepcopy(inputs.network)
        taught = candidate.is_taught
        (self.taught_probe(candidate, number) if taught else self._probe(number)).put_into(trial.head)
        source = self.source_at(trial.position(candidate.cut))
        held_out = source.take(fold.held_out)
        training = Training(
            network=trial,
            source=self._with_unlabeled(source.take(fold.train)) if taught else source.take(fold.train),
            schedule=self._schedule(candidate, source),
            options=inputs.options,
            precision=inputs.precision,
            lesson=self._answers().lesson(
                candidate.temperature, candidate.teacher_weight, fold.train, self._unlabeled()
            )
            if taught
            else None,
        )
        try:
            training.run()
            logits = self._classify(trial, held_out)
        except DivergenceError:
            self.diverged.add(candidate)
            logits = torch.zeros(len(fold.held_out), trial.classes)
        return _evaluation(logits, held_out.labels, trial.head.link)

    def _with_unlabeled(self, source: ActivationSource) -> ActivationSource:
        """Add the images without a label to those of a fold; their activations are cached at the same cut."""
        extracted, inputs = self._answers().extracted, self.inputs
        if extracted is None:
            return source
        others = extracted.source_at(source.position, inputs.placement, inputs.reporter)
        return Joined(first=source, second=others.take(self._unlabeled()))

    def _classify(self, trial: Network, held_out: ActivationSource) -> Tensor:
        """Return the logits of held-out images.

        Raises:
            DivergenceError: they are not finite, although the weights are.
        """
        precision = self.inputs.precision
        pooled = pooled_features(trial, held_out, precision, views=1)[:, 0].to(precision.device)
        with torch.inference_mode():
            logits: Tensor = trial.head.classify(pooled).cpu()
        if not logits.isfinite().all():
            raise DivergenceError("the outputs of the trained network are not finite")
        return logits

    def _schedule(self, candidate: Candidate, source: ActivationSource) -> Schedule:
        recipe = block_recipe(candidate.recipe)
        return Schedule(
            epochs=trial_epochs(self.inputs.options.epochs_for(len(source.labels), recipe.epoch_factor)),
            learning_rate=candidate.learning_rate,
            blocks=recipe.trained_blocks(source.position, len(self.inputs.network.block_names)),
            adapts=recipe.adapts,
            flip=source.position == 0 and self.inputs.allows_flips(),
            quarter_turns=source.position == 0 and self.inputs.options.quarter_turns,
        )


def _evaluation(logits: Tensor, labels: Tensor, link: str) -> Evaluation:
    return Evaluation(logits=logits.clone(), labels=labels, images=(), skipped=(), link=link)


def trial_epochs(epochs: int) -> int:
    """Return three quarters of the epochs, rounded up: the length of a trial."""
    return -(-3 * epochs // 4)
