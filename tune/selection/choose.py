"""Choose the recipe, the cut and the learning rate on evidence: cross-validation inside the training images."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from unfreeze.tune.backbones.network import ALL, HEAD, Network
from unfreeze.tune.data.folds import Fold, stratified_folds, stratified_part
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.recipes.registry import (
    ALL_BLOCKS,
    AUTO,
    BOLD_RATE,
    GENTLE_RATE,
    LAST_BLOCKS,
    LINEAR,
    PROBE,
    SCRATCH,
    STEM_HEAD,
    recipe_of,
)
from unfreeze.tune.selection.survey import DepthScore, survey_cuts
from unfreeze.tune.selection.trials import Candidate, Contest, Entered

_FOLDS = 3
_FEW_HUNDRED, _PLENTY, _THOUSAND = 300, 500, 1000
_CLEARLY = 3.0  # standard errors
_TRIED_IMAGES = 600
_TRIED_FOREIGN_IMAGES = 2000  # features that must become others show it late
_LINEAR_WORK = 3_000_000  # images times features times classes, up to which all linear recipes are tried


@dataclass(frozen=True, kw_only=True)
class Score:
    """How a candidate did in cross-validation.

    Args:
        recipe: its name.
        cut: the first trained block; "head" where none is.
        learning_rate: of the last block; 0 where none is trained.
        accuracy: over all held-out images, 0 to 1.
        standard_error: of that accuracy.
        images: how many were held out, over the folds that it took part in.
        chosen: whether it is the one.
    """

    recipe: str
    cut: str
    learning_rate: float
    accuracy: float
    standard_error: float
    images: int
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen, and why.

    Args:
        candidate: the way to tune.
        reason: in one sentence.
        depths: the survey, from the input to the head; empty where none was made.
        scores: of all candidates that were tried.
    """

    candidate: Candidate
    reason: str
    depths: tuple[DepthScore, ...] = ()
    scores: tuple[Score, ...] = ()


def choice_state(choice: Choice) -> dict[str, Any]:
    """Give a choice in plain types, to be kept."""
    return vars(choice) | {
        "candidate": tuple(choice.candidate),
        "depths": [asdict(depth) for depth in choice.depths],
        "scores": [asdict(score) for score in choice.scores],
    }


def choice_from(state: dict[str, Any]) -> Choice:
    """Make a choice of what `choice_state` gave."""
    parts = {
        "candidate": Candidate(*state["candidate"]),
        "depths": tuple(DepthScore(**depth) for depth in state["depths"]),
        "scores": tuple(Score(**score) for score in state["scores"]),
    }
    return Choice(**(state | parts))


def asked_candidate(options: TuneOptions) -> Candidate | None:
    """Give the candidate that the options name; None where something is left to be chosen."""
    recipe = options.asked_recipe
    if recipe in LINEAR:
        return Candidate(recipe, HEAD, 0.0)
    rate = options.learning_rate or (recipe_of(recipe).rate if recipe in (STEM_HEAD, SCRATCH) else None)
    return None if rate is None or wants_survey(options) else Candidate(recipe, _asked_cut(options), rate)


def wants_survey(options: TuneOptions) -> bool:
    """Tell whether a depth is to be chosen."""
    return options.asked_recipe == AUTO or (options.asked_recipe == LAST_BLOCKS and options.cut == "auto")


def earliest_cut(network: Network, options: TuneOptions) -> str:
    """Name the cut at which activations are worth keeping before anything is chosen: the middle, unless one is asked.

    Args:
        network: to be cut.
        options: what was asked for.
    """
    if wants_survey(options):
        return middle_cut(network)
    if options.asked_recipe in LINEAR:
        return HEAD
    return _asked_cut(options)


def _asked_cut(options: TuneOptions) -> str:
    """Name the cut of a recipe that trains blocks and leaves no depth to be chosen."""
    return options.cut if options.asked_recipe == LAST_BLOCKS else ALL


def middle_cut(network: Network) -> str:
    """Name the cut that has half of the blocks behind it."""
    return network.block_names[-math.ceil(len(network.block_names) / 2)]


def choose(entered: Entered) -> Choice:
    """Try what is worth trying, the cheapest first, and take the cheapest that nothing is clearly ahead of.

    The survey tells where to look: where features of an earlier cut are worth more than those behind the last block,
    the images are unlike those that the network knows, and the search goes deeper. It goes on as long as that pays:
    as long as a candidate has the lead over the best so far that `_needed_lead` tells.

    Args:
        entered: network, images and options.
    """
    depths = _survey(entered) if wants_survey(entered.options) else ()
    foreign = is_foreign(depths)
    tried = _TRIED_FOREIGN_IMAGES if foreign else _TRIED_IMAGES
    folds = _folds(entered.extracted.labels.numpy(), tried, entered.options.seed)
    if not folds:
        return _careful(entered)
    contest = Contest(entered=entered, folds=folds)
    if not wants_survey(entered.options):
        return _chosen_rate(contest)
    best = _best_linear(contest) if entered.options.asked_recipe == AUTO else None
    best, why = _climb(contest, best, foreign=foreign)
    return _choice(contest, best, why, depths)


def _folds(labels: np.ndarray, tried: int, seed: int) -> tuple[Fold, ...]:
    """Split the images, or a stratified part of them where there are many: trials are to be cheap."""
    rows = stratified_part(labels, tried, seed, least=_FOLDS) if len(labels) >= 2 * tried else np.arange(len(labels))
    return tuple(Fold(rows[train], rows[held_out]) for train, held_out in stratified_folds(labels[rows], _FOLDS, seed))


def is_foreign(depths: Sequence[DepthScore]) -> bool:
    """Tell whether the images are unlike those that the network knows.

    They are where an earlier cut's features are worth clearly more than those behind the last block: by three standard
    errors, since the best of many cuts is always a little ahead. And where not half of them are told right from any.

    Args:
        depths: of the survey, from the input to the head; none where nothing could be held out.
    """
    if not depths:
        return False
    best = max(depths, key=lambda depth: depth.accuracy)
    return best.accuracy - depths[-1].accuracy > _CLEARLY * depths[-1].standard_error or best.accuracy < 0.5  # noqa: PLR2004


def _survey(entered: Entered) -> tuple[DepthScore, ...]:
    extracted = entered.extracted
    labels = extracted.labels[extracted.surveyed]
    # Where not all images were surveyed, a rare class may have too few there to hold any out.
    enough = torch.bincount(labels)[labels] >= _FOLDS
    labels = labels[enough].unique(return_inverse=True)[1]
    folds = stratified_folds(labels.numpy(), _FOLDS, entered.options.seed) if labels.any() else ()
    borders = {position: pooled[enough] for position, pooled in extracted.borders.items()}
    return survey_cuts(entered.network, borders, labels, folds, entered.reporter) if folds else ()


def _careful(entered: Entered) -> Choice:
    """Choose without evidence: what was asked for, and the gentlest of what was not."""
    options = entered.options
    candidate = Candidate(PROBE, HEAD, 0.0)
    if options.asked_recipe != AUTO:
        cut = middle_cut(entered.network) if wants_survey(options) else _asked_cut(options)
        candidate = Candidate(options.asked_recipe, cut, options.learning_rate or GENTLE_RATE)
    why = "a class has too few images to hold any out, so nothing was tried"
    return Choice(candidate=candidate, reason=f"{candidate}: {why}")


def _chosen_rate(contest: Contest) -> Choice:
    """Choose the learning rate of a recipe and cut that were asked for."""
    options = contest.entered.options
    gentle, bold = (Candidate(options.asked_recipe, _asked_cut(options), rate) for rate in (GENTLE_RATE, BOLD_RATE))
    contest.enter(gentle)
    contest.enter(bold)
    best = bold if contest.lead(bold, gentle) > 1 else gentle
    return _choice(contest, best, f"{best} did best of two rates", ())


def _best_linear(contest: Contest) -> Candidate:
    """Take the softmax regression unless another linear recipe is clearly ahead."""
    extracted = contest.entered.extracted
    best = Candidate(PROBE, HEAD, 0.0)
    contest.enter(best)
    if extracted.features[:, 0].numel() * len(np.unique(extracted.labels)) > _LINEAR_WORK:
        return best
    for recipe in LINEAR[1:]:
        other = Candidate(recipe, HEAD, 0.0)
        contest.enter(other)
        best = other if contest.lead(other, best) > 1 and contest.gain(other, best) > 0 else best
    return best


def _climb(contest: Contest, best: Candidate | None, *, foreign: bool) -> tuple[Candidate, str]:
    """Go from the last quarter of the blocks to the last half, or from there to all, as long as it pays.

    With more than a few hundred images the half is tried at once: there it is seldom worse than the quarter, and a
    trial is saved.
    """
    why, rates = "nothing was clearly ahead of it", _rates(contest.entered.options, foreign=foreign)
    images = len(contest.entered.extracted.labels)
    few = best is None or images < _PLENTY
    for recipe, cut in _depths(contest.entered.network, few=few, foreign=foreign):
        if best is not None and contest.is_settled(best):
            return best, "it misses too few images for anything to be clearly ahead of it"
        needed = 0.0 if best is None else _needed_lead(best, images)
        tried = [Candidate(recipe, cut, rate) for rate in rates]
        for candidate in tried:
            contest.enter(candidate, best, needed)
        ahead = max(tried, key=lambda one: float(contest.hits(one).mean()))
        rates = (ahead.rate,)
        if best is None:
            best, why = ahead, "nothing deeper was clearly ahead of it"
            continue
        lead = contest.lead(ahead, best)
        if lead <= needed:
            break
        best, why = ahead, "it was ahead of everything cheaper that was tried"
        if lead <= 0:
            why = "its short trial was not clearly behind, and with so many images training pays"
    if best is None:
        raise AssertionError
    return best, why


def _needed_lead(best: Candidate, images: int) -> float:
    """Give the lead, in standard errors, that more training must have over the best so far.

    Over another trained candidate it is one. Over a linear one it falls with the number of images, from one for a few
    hundred to minus one for a thousand: trials train on fewer images for a shorter time than tuning then does, and
    with thousands of images tuning mostly pays; so the linear one must be clearly ahead to be kept.
    """
    if best.recipe not in LINEAR:
        return 1.0
    return 1 - 2 * min(1.0, max(0.0, (images - _FEW_HUNDRED) / (_THOUSAND - _FEW_HUNDRED)))


def _depths(network: Network, *, few: bool, foreign: bool) -> Iterator[tuple[str, str]]:
    if few and not foreign:
        yield LAST_BLOCKS, network.block_names[-math.ceil(len(network.block_names) / 4)]
    yield LAST_BLOCKS, middle_cut(network)
    if foreign:
        yield ALL_BLOCKS, ALL


def _rates(options: TuneOptions, *, foreign: bool) -> tuple[float, ...]:
    """Features that fit are spoilt by large steps, so these are tried on foreign images alone."""
    if options.learning_rate is not None:
        return (options.learning_rate,)
    return (GENTLE_RATE, BOLD_RATE) if foreign else (GENTLE_RATE,)


def _choice(contest: Contest, best: Candidate, why: str, depths: tuple[DepthScore, ...]) -> Choice:
    scores = tuple(_score(one, contest.hits(one), chosen=one == best) for one in contest.answers)
    found = "; ".join(f"{one} {score.accuracy:.3f}" for one, score in zip(contest.answers, scores, strict=True))
    return Choice(
        candidate=best,
        reason=f"{best}: {why} (cross-validated: {found})",
        depths=depths,
        scores=scores,
    )


def _score(one: Candidate, hits: np.ndarray, *, chosen: bool) -> Score:
    accuracy = float(hits.mean())
    return Score(
        recipe=one.recipe,
        cut=one.cut,
        learning_rate=one.rate,
        accuracy=accuracy,
        standard_error=math.sqrt(accuracy * (1 - accuracy) / len(hits)),
        images=len(hits),
        chosen=chosen,
    )
