"""Try ways to tune on folds of the training images, and tell which is ahead."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unfreeze.contract.errors import DivergenceError
from unfreeze.contract.reporting import Reporter
from unfreeze.tune.backbones.link import negative_log_likelihoods
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.data.folds import Fold
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.evaluation.evaluate import Evaluation, fit_temperature
from unfreeze.tune.features.cache import Source, pooled_features
from unfreeze.tune.features.extract import ExtractedFeatures
from unfreeze.tune.features.placement import CachePlacement
from unfreeze.tune.linear.probe import Probe, fit_probe
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.recipes.registry import LINEAR, PROBE, recipe_of
from unfreeze.tune.training.train import Schedule, Training, class_weights

_ENOUGH_HELD_OUT = 200
_FEW_MISSES = 4  # to be a standard error ahead of so few, another would have to miss next to none


class Candidate(NamedTuple):
    """A way to tune.

    Args:
        recipe: its name.
        cut: the first trained block; "head" where none is.
        rate: learning rate of the last block; 0 where none is trained.
    """

    recipe: str
    cut: str
    rate: float

    def __str__(self) -> str:
        """Say it in a few words."""
        if self.recipe in LINEAR:
            return self.recipe
        return f"{self.recipe} from {self.cut} at rate {self.rate:g}"


@dataclass(frozen=True, kw_only=True)
class Entered:
    """What a contest is about.

    Args:
        network: pretrained; left as it is.
        extracted: the training images.
        probe: fitted on all of them.
        options: how to tune.
        precision: to compute in.
        room: for activations at later cuts.
        reporter: shows progress.
        flip: tells whether images may be flipped; asked only where images themselves are trained on.
    """

    network: Network
    extracted: ExtractedFeatures
    probe: Probe
    options: TuneOptions
    precision: Precision
    placement: CachePlacement
    reporter: Reporter
    flip: Callable[[], bool]


@dataclass(kw_only=True)
class Contest:
    """What candidates answer to the same held-out images.

    Args:
        entered: what it is about.
        folds: of the training images.
    """

    entered: Entered
    folds: Sequence[Fold]
    answers: dict[Candidate, list[Evaluation]] = field(default_factory=dict)
    diverged: set[Candidate] = field(default_factory=set)
    _source: Source | None = None
    _probes: dict[int, Probe] = field(default_factory=dict)

    def enter(self, candidate: Candidate, against: Candidate | None = None, needed: float = 0.0) -> None:
        """Try a candidate: linear ones on all folds, others on as many as hold enough images out together.

        Args:
            candidate: to be tried.
            against: stop after a fold behind which it has fewer hits than this one, or not half of the lead needed.
            needed: lead, in standard errors.
        """
        if candidate in self.answers:
            return
        linear = candidate.recipe in LINEAR
        folds = range(len(self.folds) if linear else self._folds_for_training())
        advance = self.entered.reporter.track(f"trying {candidate}", len(folds))
        self.answers[candidate] = []
        for fold in folds:
            answered = self._linear_answers(candidate, fold) if linear else self._trained_answers(candidate, fold)
            self.answers[candidate].append(answered)
            advance(1)
            if against is not None and (
                self.lead(candidate, against) <= needed / 2 or self.gain(candidate, against) < 0
            ):
                advance(len(folds) - len(self.answers[candidate]))
                break

    def hits(self, candidate: Candidate) -> np.ndarray:
        """Tell which held-out images a candidate named right: bool, fold after fold."""
        return np.concatenate([np.asarray(own.logits.argmax(1) == own.labels) for own in self.answers[candidate]])

    def lead(self, candidate: Candidate, other: Candidate) -> float:
        """Tell how far a candidate is ahead on the images that both saw, in standard errors of the difference.

        Two things are compared, and the one in which it is further ahead counts: hits, which is what people want, and
        the log loss, each candidate's logits divided by the temperature that suits them best, which tells more from
        the same images but holds it against a trial that it has trained for a short time. Where classes are to count
        the same, however few their images, they do so here.
        """
        if candidate in self.diverged:
            return -math.inf
        both = min(len(self.answers[candidate]), len(self.answers[other]))
        one, two = (_losses(self.answers[each][:both]) for each in (candidate, other))
        return max(_in_errors((two - one) * self._counts(candidate, both)), _in_errors(self._gains(candidate, other)))

    def gain(self, candidate: Candidate, other: Candidate) -> float:
        """Count how many more of the images that both saw a candidate names right."""
        return float(self._gains(candidate, other).sum())

    def is_settled(self, candidate: Candidate) -> bool:
        """Tell whether nothing can be clearly ahead of a candidate: it misses too few images."""
        return int((~self.hits(candidate)).sum()) <= _FEW_MISSES

    def _gains(self, candidate: Candidate, other: Candidate) -> Tensor:
        """Tell where only the one hits (1) and where only the other (-1), of the images both saw: float64 [n]."""
        both = min(len(self.answers[candidate]), len(self.answers[other]))
        counts = self._counts(candidate, both)
        one, two = (torch.from_numpy(self.hits(each)[: len(counts)]).double() for each in (candidate, other))
        return (one - two) * counts

    def _counts(self, candidate: Candidate, folds: int) -> Tensor:
        """Tell how much each image counts that a candidate saw in the first folds: float64 [n]."""
        labels = torch.cat([own.labels for own in self.answers[candidate][:folds]])
        if self.entered.options.class_weights == "balanced":
            return class_weights(self.entered.extracted.labels)[labels].double()
        return torch.ones(len(labels), dtype=torch.float64)

    def _folds_for_training(self) -> int:
        held_out = np.cumsum([len(fold.held_out) for fold in self.folds])
        return min(len(self.folds), int(np.searchsorted(held_out, _ENOUGH_HELD_OUT)) + 1)

    def _probe(self, fold: int) -> Probe:
        """Fit the softmax regression of a fold once: it is a candidate, and what every trial starts from."""
        if fold not in self._probes:
            self._probes[fold] = self._fit(PROBE, self.folds[fold], self.entered.probe.inverse_regularization)
        return self._probes[fold]

    def _fit(self, kind: str, fold: Fold, inverse_regularization: float | None = None) -> Probe:
        entered = self.entered
        return fit_probe(
            entered.extracted.features[fold.train],
            entered.extracted.labels[fold.train],
            kind=kind,
            seed=entered.options.seed,
            balanced=entered.options.class_weights == "balanced",
            inverse_regularization=inverse_regularization,
        )

    def _linear_answers(self, candidate: Candidate, number: int) -> Evaluation:
        head, fold = copy.deepcopy(self.entered.network.head).cpu(), self.folds[number]
        probe = self._probe(number) if candidate.recipe == PROBE else self._fit(candidate.recipe, fold)
        probe.put_into(head)
        with torch.inference_mode():
            logits = head.classify(self.entered.extracted.features[fold.held_out, 0])
        return _evaluation(logits, self.entered.extracted.labels[fold.held_out], head.link)

    def _trained_answers(self, candidate: Candidate, number: int) -> Evaluation:
        entered, recipe, fold = self.entered, recipe_of(candidate.recipe), self.folds[number]
        trial = copy.deepcopy(entered.network)
        self._probe(number).put_into(trial.head)
        position = trial.position(candidate.cut)
        source = self.source_at(position)
        held_out = source.take(fold.held_out)
        blocks = recipe.blocks(position, len(trial.block_names))
        epochs = trial_epochs(entered.options.epochs_for(len(source.labels), recipe.patience))
        training = Training(
            network=trial,
            source=source.take(fold.train),
            schedule=Schedule(epochs=epochs, rate=candidate.rate, blocks=blocks, flip=position == 0 and entered.flip()),
            options=entered.options,
            precision=entered.precision,
        )
        try:
            training.run()
        except DivergenceError:  # it answers everything alike
            self.diverged.add(candidate)
            return _evaluation(torch.zeros(len(fold.held_out), trial.classes), held_out.labels, trial.head.link)
        pooled = pooled_features(trial, held_out, entered.precision, views=1)[:, 0].to(entered.precision.device)
        with torch.inference_mode():
            return _evaluation(trial.head.classify(pooled).cpu(), held_out.labels, trial.head.link)

    def source_at(self, position: int) -> Source:
        """Give the images' activations at a cut; those at one cut are kept besides the extracted ones."""
        if self._source is None or self._source.position != position:
            self._source = None  # the next ones want the room
            self._source = self.entered.extracted.source_at(position, self.entered.placement, self.entered.reporter)
        return self._source


def _evaluation(logits: Tensor, labels: Tensor, link: str) -> Evaluation:
    return Evaluation(logits=logits.clone(), labels=labels, images=(), skipped=(), link=link)


def _in_errors(difference: Tensor) -> float:
    error = float(difference.std()) / math.sqrt(len(difference))
    return float(difference.mean()) / error if error else 0.0


def _losses(answers: Sequence[Evaluation]) -> Tensor:
    """Give each image's log loss at the best temperature, float64 [n]."""
    logits, labels = (torch.cat([getattr(own, name) for own in answers]) for name in ("logits", "labels"))
    whole = _evaluation(logits, labels, answers[0].link)
    return negative_log_likelihoods(logits, labels, whole.link, fit_temperature(whole)).double()


def trial_epochs(epochs: int) -> int:
    """Give how many of the epochs a trial takes: three quarters."""
    return -(-3 * epochs // 4)
