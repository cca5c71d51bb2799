"""Which score to use: leave out classes in turn, and see which score recognizes their images as foreign."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from unfreeze.contract.arrays import Float32, Int64
from unfreeze.contract.model.ood import BASELINE, METHODS, Method
from unfreeze.contract.reporting import Reporter, Silent
from unfreeze.tune.data.folds import stratified_folds, stratified_part
from unfreeze.tune.evaluation.evaluate import Evaluation, fit_temperature
from unfreeze.tune.linear.probe import fit_probe
from unfreeze.tune.ood.gaussian import Gaussians
from unfreeze.tune.ood.score import FEATURE_METHODS, Score

_FEWEST_CLASSES, _FEWEST_IMAGES = 3, 4
_GROUPS, _FOLDS, _HELD_OUT = 5, 4, 2
_MOST_CLASSES, _MOST_IMAGES = 30, 2000
_REPEATED_WORK = 5_000_000  # images times features times classes up to which several folds are held out in turn


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How well scores recognized images of classes that were left out.

    Args:
        aurocs: mean over the groups of classes, by method.
        gains: mean difference from the maximum softmax, by method.
        errors: standard error of that difference, by method.
        groups: number of groups that were left out, one after the other.
        classes: number of classes.
    """

    aurocs: dict[Method, float]
    gains: dict[Method, float]
    errors: dict[Method, float]
    groups: int
    classes: int

    @property
    def best(self) -> Method:
        """The best method: the maximum softmax if no other one is better by more than one standard error."""
        better = [one for one in self.aurocs if one != BASELINE and self.gains[one] > self.errors[one]]
        return max(better, key=lambda one: self.aurocs[one], default=BASELINE)

    @property
    def message(self) -> str:
        """A sentence for users."""
        scores = ", ".join(f"{method} {auroc:.3f}" for method, auroc in self.aurocs.items())
        text = (
            f"images of {self.classes} classes, left out in {self.groups} groups, were recognized as foreign with an "
            f"AUROC of: {scores}"
        )
        return f"{text}; none is better than {BASELINE}" if self.best == BASELINE else f"{text}; {self.best} is used"


def compare_scores(
    features: Float32[Tensor, "n f"],
    labels: Int64[Tensor, " n"],
    inverse_regularization: float,
    seed: int,
    methods: Sequence[Method] = METHODS,
    reporter: Reporter | None = None,
) -> Comparison | None:
    """Leave out groups of classes in turn, and score their images with a probe of the others.

    They are compared with held-out images of the other classes. Classes with fewer than 4 images are ignored. Of
    large data sets, 30 classes and 2,000 images are used.

    Args:
        features: of the training images, pooled after the last block.
        labels: of the images.
        inverse_regularization: of the probes.
        seed: random seed.
        methods: to compare; the maximum softmax among them.
        reporter: shows progress.

    Returns:
        None if there are fewer than 3 classes.
    """
    rows = _chosen_images(labels.numpy(), seed)
    classes = np.unique(labels.numpy()[rows])
    if len(classes) < _FEWEST_CLASSES:
        return None
    groups = np.array_split(np.random.default_rng(seed).permutation(classes), min(_GROUPS, len(classes)))
    folds = _HELD_OUT if len(rows) * features.shape[1] * len(classes) <= _REPEATED_WORK else 1
    advance = (reporter or Silent()).track("comparing out-of-distribution scores", len(groups) * folds)
    chosen, own = features[torch.from_numpy(rows)], labels[torch.from_numpy(rows)]
    table = np.empty((len(groups), folds, len(methods)))
    for number, group in enumerate(groups):
        foreign = torch.from_numpy(np.isin(own.numpy(), group))
        kept = own[~foreign].unique(return_inverse=True)[1]
        splits = stratified_folds(kept.numpy(), _FOLDS, seed)[:folds]
        for fold, (train, held_out) in enumerate(splits):
            trial = _Trial.fit(chosen[~foreign], kept, train, held_out, inverse_regularization, methods)
            found = trial.aurocs(chosen[~foreign][held_out], chosen[foreign])
            table[number, fold] = [found[method] for method in methods]
            advance(1)
    return _comparison(table.mean(1), methods, len(classes))


def _comparison(table: np.ndarray, methods: Sequence[Method], classes: int) -> Comparison:
    """Summarize the areas of each group of classes, [groups, methods]."""
    gains = table - table[:, [methods.index(BASELINE)]]
    errors = gains.std(0, ddof=1) / np.sqrt(len(table))

    def by_method(values: np.ndarray) -> dict[Method, float]:
        return dict(zip(methods, map(float, values), strict=True))

    return Comparison(
        aurocs=by_method(table.mean(0)),
        gains=by_method(gains.mean(0)),
        errors=by_method(errors),
        groups=len(table),
        classes=classes,
    )


def _chosen_images(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return the numbers of the images of enough classes, and of not too many."""
    counts = np.bincount(labels)
    classes = np.random.default_rng(seed).permutation(np.flatnonzero(counts >= _FEWEST_IMAGES))[:_MOST_CLASSES]
    rows: np.ndarray = np.flatnonzero(np.isin(labels, classes))
    if len(rows) > _MOST_IMAGES:
        rows = rows[stratified_part(labels[rows], _MOST_IMAGES, seed, least=_FEWEST_IMAGES)]
    return rows


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """A probe of some classes, and the scores that it gives."""

    classify: Callable[[Tensor], Tensor]
    scores: Mapping[Method, Score]

    @classmethod
    def fit(
        cls,
        features: Tensor,
        labels: Tensor,
        train: np.ndarray,
        held_out: np.ndarray,
        inverse_regularization: float,
        methods: Sequence[Method],
    ) -> "_Trial":
        own, y = features[train], labels[train]
        probe = fit_probe(own[:, None], y, inverse_regularization=inverse_regularization)
        logits = probe.classify(features[held_out])
        temperature = fit_temperature(Evaluation(logits=logits, labels=labels[held_out], images=(), skipped=()))
        gaussians = Gaussians.fit(own, y) if set(methods) & set(FEATURE_METHODS) else None
        scores = {
            method: Score(
                method=method,
                temperature=temperature,
                link=probe.link,
                gaussians=gaussians if method in FEATURE_METHODS else None,
            )
            for method in methods
        }
        return cls(classify=probe.classify, scores=scores)

    def aurocs(self, own: Tensor, foreign: Tensor) -> dict[Method, float]:
        """Return the area under the receiver operating characteristic of each method."""
        features = torch.cat([own, foreign])
        is_foreign = np.arange(len(features)) >= len(own)
        logits = self.classify(features)
        return {
            method: float(roc_auc_score(is_foreign, score.of(logits, features).numpy()))
            for method, score in self.scores.items()
        }
