"""Choose the cut on evidence: cross-validation inside the training pictures."""

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from contract.reporting import Reporter
from tune.cache import Cached, advance_cache, pooled_features
from tune.network import HEAD, Network
from tune.options import TuneOptions
from tune.precision import Precision
from tune.probe import Probe, fit_probe
from tune.train import train_network

_FOLDS = 3
_SHORT_EPOCHS = 4
_PATIENCE = 2


@dataclass(frozen=True, kw_only=True)
class CutScore:
    """How a cut did in cross-validation.

    Args:
        cut: the first trained block, or "head".
        accuracy: over all held-out pictures, 0 to 1.
        standard_error: of that accuracy.
        pictures: how many were held out, over all folds.
    """

    cut: str
    accuracy: float
    standard_error: float
    pictures: int


def candidate_cuts(network: Network) -> tuple[str, ...]:
    """Name the cuts worth trying, cheapest first: the head, the last block, the last quarter, the last half."""
    names = network.block_names
    depths = sorted({1, math.ceil(len(names) / 4), math.ceil(len(names) / 2)})
    return (HEAD, *(names[-depth] for depth in depths))


def score_cuts(
    network: Network,
    cached: Cached,
    features: Tensor,
    options: TuneOptions,
    precision: Precision,
    reporter: Reporter,
) -> tuple[CutScore, ...]:
    """Train every candidate on the same folds of the training pictures and test it on what each fold holds out.

    Args:
        network: pretrained; left as it is.
        cached: the training pictures at the earliest candidate cut.
        features: of the pictures as served, pooled behind the last block, float32 [N, F].
        options: how to train.
        precision: to compute in.
        reporter: shows progress.

    Returns:
        One score per candidate, cheapest first, until deeper cuts stop gaining; none where a class has too few
        pictures to hold any out.
    """
    labels = cached.labels.numpy()
    folds = min(_FOLDS, int(np.bincount(labels).min()))
    if folds < 2:  # noqa: PLR2004
        return ()
    split = list(StratifiedKFold(folds, shuffle=True, random_state=options.seed).split(labels, labels))
    probes = [fit_probe(features[train], cached.labels[train], seed=options.seed) for train, _ in split]
    short = replace(options, epochs=min(options.epochs, _SHORT_EPOCHS))
    cuts = candidate_cuts(network)
    advance = reporter.track("choosing the cut by cross-validation", len(cuts) * folds)
    scores: list[CutScore] = []
    for cut in cuts:
        at_cut = advance_cache(network, cached, network.position(cut), precision)
        correct = 0
        for (train, held_out), probe in zip(split, probes, strict=True):
            correct += _correct(network, at_cut, (train, held_out), probe, short, precision)
            advance(1)
        scores.append(_score(cut, correct, len(labels)))
        if _stopped_gaining(scores):
            break
    advance((len(cuts) - len(scores)) * folds)
    return tuple(scores)


def _score(cut: str, correct: int, pictures: int) -> CutScore:
    accuracy = correct / pictures
    error = math.sqrt(accuracy * (1 - accuracy) / pictures)
    return CutScore(cut=cut, accuracy=accuracy, standard_error=error, pictures=pictures)


def _stopped_gaining(scores: list[CutScore]) -> bool:
    """Tell whether the last cuts tried gained less than one standard error: deeper ones cost more still."""
    before, last = scores[:-_PATIENCE], scores[-_PATIENCE:]
    if not before:
        return False
    best = max(before, key=lambda score: score.accuracy)
    return max(score.accuracy for score in last) <= best.accuracy + best.standard_error


def cheapest_good_cut(scores: tuple[CutScore, ...]) -> str:
    """Apply the one-standard-error rule (Breiman et al. 1984): the cheapest that is within one of the best.

    Args:
        scores: cheapest first; where there are none, the head alone is the careful choice.
    """
    if not scores:
        return HEAD
    best = max(scores, key=lambda score: score.accuracy)
    return next(score.cut for score in scores if score.accuracy >= best.accuracy - best.standard_error)


def _correct(
    network: Network,
    cached: Cached,
    rows: tuple[np.ndarray, np.ndarray],
    probe: Probe,
    options: TuneOptions,
    precision: Precision,
) -> int:
    trial, learning, testing = copy.deepcopy(network), _rows(cached, rows[0]), _rows(cached, rows[1])
    train_network(trial, learning, probe, options, precision, lambda _: None)
    with torch.inference_mode():
        pooled = pooled_features(trial, testing, precision, views=1)[:, 0].to(precision.device)
        return int((trial.head.classify(pooled).argmax(1).cpu() == testing.labels).sum())


def _rows(cached: Cached, rows: np.ndarray) -> Cached:
    return Cached(
        position=cached.position,
        activations=cached.activations[torch.from_numpy(rows)],
        labels=cached.labels[torch.from_numpy(rows)],
        pictures=tuple(cached.pictures[row] for row in rows),
        skipped=(),
    )
