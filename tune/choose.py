"""Choose the cut and the learning rate on evidence: cross-validation inside the training pictures."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from contract.reporting import Reporter
from tune.cache import Cached, cache_at, pooled_features
from tune.network import HEAD, Network
from tune.options import GENTLE_RATE, TuneOptions
from tune.precision import Precision
from tune.probe import fit_probe
from tune.train import train_network

_BOLD_RATE = 3e-2
_FOLDS = 3
_SHORT_EPOCHS = 4
_HOPELESS = 2.0


class Candidate(NamedTuple):
    """A way to tune: from which cut, and with which learning rate for the head."""

    cut: str
    rate: float


@dataclass(frozen=True, kw_only=True)
class CutScore:
    """How a candidate did in cross-validation.

    Args:
        cut: the first trained block, or "head".
        learning_rate: the head's.
        accuracy: over all held-out pictures, 0 to 1.
        standard_error: of that accuracy.
        pictures: how many were held out, over the folds that it took part in.
        chosen: whether it is the one.
    """

    cut: str
    learning_rate: float
    accuracy: float
    standard_error: float
    pictures: int
    chosen: bool


def candidate_cuts(network: Network, cut: str) -> tuple[str, ...]:
    """Name the cuts worth trying, cheapest first.

    Args:
        network: to be cut.
        cut: what was asked for; "auto" makes it the head, the last quarter of the blocks, and the last half.
    """
    if cut != "auto":
        return (cut,)
    names = network.block_names
    depths = sorted({math.ceil(len(names) / 4), math.ceil(len(names) / 2)})
    return (HEAD, *(names[-depth] for depth in depths))


def needs_choice(options: TuneOptions) -> bool:
    """Tell whether anything is left to be chosen."""
    return options.cut == "auto" or (options.cut != HEAD and options.learning_rate is None)


def score_candidates(
    network: Network,
    cached: Cached,
    features: Tensor,
    options: TuneOptions,
    precision: Precision,
    reporter: Reporter,
) -> tuple[CutScore, ...]:
    """Train candidates on the same folds of the training pictures and test them on what each fold holds out.

    The first cut that trains blocks is tried with a gentle and a bold learning rate, the next ones with the better of
    them. After each fold, those go that will hardly win (racing, after Maron and Moore 1994): candidates that are not
    ahead of a cheaper one by a standard error of the paired difference, and those that are two behind the best. The
    race ends when one is left.

    Args:
        network: pretrained; left as it is.
        cached: the training pictures at the earliest candidate cut.
        features: pooled behind the last block, of every view, float32 [N, V, F].
        options: how to train.
        precision: to compute in.
        reporter: shows progress.

    Returns:
        One score per candidate, cheapest first; none where a class has too few pictures to hold any out.
    """
    labels = cached.labels.numpy()
    folds = min(_FOLDS, int(np.bincount(labels).min()))
    if folds < 2:  # noqa: PLR2004
        return ()
    split = StratifiedKFold(folds, shuffle=True, random_state=options.seed).split(labels, labels)
    cuts = candidate_cuts(network, options.cut)
    at_cut: dict[str, Cached] = {}
    for cut in reversed(cuts):  # the earliest first: each from the one before
        cached = at_cut[cut] = cache_at(network, cached, features, network.position(cut), precision)
    hits: dict[Candidate, list[np.ndarray]] = {}
    racing: tuple[Candidate, ...] = ()
    steps = reporter.track("choosing by cross-validation", folds)
    for train, held_out in split:
        probe = fit_probe(features[train, 0], cached.labels[train], seed=options.seed)
        for one in racing or _candidates(cuts, options, hits):
            trial = copy.deepcopy(network)
            short = replace(options, epochs=min(options.epochs, _SHORT_EPOCHS), learning_rate=one.rate)
            train_network(trial, at_cut[one.cut].take(train), features[train], probe, short, precision, lambda _: None)
            hits.setdefault(one, []).append(_hits(trial, at_cut[one.cut].take(held_out), precision))
        racing = _still_racing({one: np.concatenate(hits[one]) for one in racing or hits})
        steps(1)
        if len(racing) == 1:
            break
    steps(folds - max(map(len, hits.values())))
    chosen = _chosen({one: np.concatenate(hits[one]) for one in racing})
    return tuple(_score(one, np.concatenate(own), chosen=one == chosen) for one, own in hits.items())


def _candidates(
    cuts: tuple[str, ...], options: TuneOptions, hits: dict[Candidate, list[np.ndarray]]
) -> Iterator[Candidate]:
    """Give the first fold's candidates, one by one, as what has been seen of those before suggests."""
    rates = (options.learning_rate,) if options.learning_rate is not None else (GENTLE_RATE, _BOLD_RATE)
    for cut in cuts:
        if cut == HEAD:
            yield Candidate(HEAD, options.head_rate)
            continue
        for rate in rates:
            yield Candidate(cut, rate)
        rates = (max((one for one in hits if one.cut == cut), key=lambda one: float(hits[one][0].mean())).rate,)


def _score(one: Candidate, hits: np.ndarray, *, chosen: bool) -> CutScore:
    accuracy = float(hits.mean())
    error = math.sqrt(accuracy * (1 - accuracy) / len(hits))
    return CutScore(
        cut=one.cut,
        learning_rate=one.rate,
        accuracy=accuracy,
        standard_error=error,
        pictures=len(hits),
        chosen=chosen,
    )


def _still_racing(hits: dict[Candidate, np.ndarray]) -> tuple[Candidate, ...]:
    """Keep what can win: no more than a little behind the best, and clearly ahead of everything cheaper."""
    best = max(hits.values(), key=np.mean)
    racing: dict[Candidate, np.ndarray] = {}
    for one, own in hits.items():
        if _behind(own, best) <= _HOPELESS and all(_behind(cheaper, own) > 1 for cheaper in racing.values()):
            racing[one] = own
    return tuple(racing)


def _behind(hits: np.ndarray, best: np.ndarray) -> float:
    """Measure how far behind the best one is, in standard errors of the difference over the same pictures."""
    difference = best.astype(float) - hits
    error = difference.std(ddof=1) / math.sqrt(len(difference))
    return float(difference.mean() / error) if error else 0.0


def _chosen(hits: dict[Candidate, np.ndarray]) -> Candidate:
    """Apply the one-standard-error rule (Breiman et al. 1984): the cheapest that is within one of the best."""
    best = max(hits.values(), key=lambda own: float(own.mean()))
    return next(one for one, own in hits.items() if _behind(own, best) <= 1)


def chosen_candidate(scores: tuple[CutScore, ...], options: TuneOptions) -> Candidate:
    """Give what was chosen; without scores, what was asked for, and for the rest the careful choice."""
    for score in scores:
        if score.chosen:
            return Candidate(score.cut, score.learning_rate)
    cut = HEAD if options.cut == "auto" else options.cut
    return Candidate(cut, options.head_rate)


def _hits(network: Network, testing: Cached, precision: Precision) -> np.ndarray:
    with torch.inference_mode():
        pooled = pooled_features(network, testing, precision, views=1)[:, 0].to(precision.device)
        return np.asarray(network.head.classify(pooled).argmax(1).cpu() == testing.labels)
