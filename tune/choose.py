"""Choose the cut on evidence: cross-validation inside the training pictures."""

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from contract.reporting import Reporter
from tune.cache import Cached, advance_cache, behind_all, pooled_features
from tune.network import HEAD, Network
from tune.options import TuneOptions
from tune.precision import Precision
from tune.probe import fit_probe
from tune.train import train_network

_FOLDS = 3
_SHORT_EPOCHS = 4
_HOPELESS = 2.0


@dataclass(frozen=True, kw_only=True)
class CutScore:
    """How a cut did in cross-validation.

    Args:
        cut: the first trained block, or "head".
        accuracy: over all held-out pictures, 0 to 1.
        standard_error: of that accuracy.
        pictures: how many were held out, over the folds that it took part in.
        chosen: whether it is the one.
    """

    cut: str
    accuracy: float
    standard_error: float
    pictures: int
    chosen: bool


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
    """Train candidates on the same folds of the training pictures and test them on what each fold holds out.

    After each fold, those go that will hardly win (racing, after Maron and Moore 1994): cuts that are not ahead of a
    cheaper one by a standard error of the paired difference, and cuts that are two behind the best. The race ends when
    one is left.

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
    short = replace(options, epochs=min(options.epochs, _SHORT_EPOCHS))
    cuts = candidate_cuts(network)
    at_cut = {HEAD: behind_all(network, cached, features)}
    for cut in reversed(cuts[1:]):  # the earliest first: each from the one before
        cached = at_cut[cut] = advance_cache(network, cached, network.position(cut), precision)
    hits: dict[str, list[np.ndarray]] = {cut: [] for cut in cuts}
    racing = cuts
    advance = reporter.track("choosing the cut by cross-validation", len(cuts) * folds)
    for train, held_out in split:
        probe = fit_probe(features[train, 0], cached.labels[train], seed=options.seed)
        for cut in racing:
            trial, learning, testing = copy.deepcopy(network), at_cut[cut].take(train), at_cut[cut].take(held_out)
            train_network(trial, learning, features[train], probe, short, precision, lambda _: None)
            hits[cut].append(_hits(trial, testing, precision))
            advance(1)
        racing = _still_racing({cut: np.concatenate(hits[cut]) for cut in racing})
        if len(racing) == 1:
            break
    advance(len(cuts) * folds - sum(map(len, hits.values())))
    return tuple(_score(cut, np.concatenate(hits[cut]), chosen=cut == _chosen(hits, racing)) for cut in cuts)


def _score(cut: str, hits: np.ndarray, *, chosen: bool) -> CutScore:
    accuracy = float(hits.mean())
    error = math.sqrt(accuracy * (1 - accuracy) / len(hits))
    return CutScore(cut=cut, accuracy=accuracy, standard_error=error, pictures=len(hits), chosen=chosen)


def _still_racing(hits: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Keep what can win: no more than a little behind the best, and clearly ahead of everything cheaper."""
    best = max(hits.values(), key=np.mean)
    racing: dict[str, np.ndarray] = {}
    for cut, own in hits.items():
        if _behind(own, best) <= _HOPELESS and all(_behind(cheaper, own) > 1 for cheaper in racing.values()):
            racing[cut] = own
    return tuple(racing)


def _behind(hits: np.ndarray, best: np.ndarray) -> float:
    """Measure how far behind the best one is, in standard errors of the difference over the same pictures."""
    difference = best.astype(float) - hits
    error = difference.std(ddof=1) / math.sqrt(len(difference))
    return float(difference.mean() / error) if error else 0.0


def _chosen(hits: dict[str, list[np.ndarray]], racing: tuple[str, ...]) -> str:
    """Apply the one-standard-error rule (Breiman et al. 1984): the cheapest that is within one of the best."""
    total = {cut: np.concatenate(hits[cut]) for cut in racing}
    best = max(total.values(), key=lambda own: own.mean())
    return next(cut for cut, own in total.items() if _behind(own, best) <= 1)


def chosen_cut(scores: tuple[CutScore, ...]) -> str:
    """Give the chosen cut; where there are no scores, the head alone is the careful choice."""
    return next((score.cut for score in scores if score.chosen), HEAD)


def _hits(network: Network, testing: Cached, precision: Precision) -> np.ndarray:
    with torch.inference_mode():
        pooled = pooled_features(network, testing, precision, views=1)[:, 0].to(precision.device)
        return np.asarray(network.head.classify(pooled).argmax(1).cpu() == testing.labels)
