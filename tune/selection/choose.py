"""Choose the recipe, the cut and the learning rate by cross-validation on the training images."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from unfreeze.tune.data.folds import Fold, stratified_folds, stratified_part
from unfreeze.tune.evaluation.accuracy import METRIC_NAMES, by_metric
from unfreeze.tune.options import ACCURACY, Metric, TuneOptions
from unfreeze.tune.recipes.recipe import BOTH_LEARNING_RATES, SearchScope
from unfreeze.tune.recipes.registry import AUTO, PROBE, block_recipe, block_recipes, is_linear, linear_recipes
from unfreeze.tune.selection.candidate import Candidate
from unfreeze.tune.selection.choice import Choice, score
from unfreeze.tune.selection.request import chooses_cut, middle_cut, requested_cut
from unfreeze.tune.selection.survey import DepthScore, survey_cuts
from unfreeze.tune.selection.trials import SearchInputs, Trials

FOLDS = 3
_FEW_IMAGES, _SEVERAL_IMAGES, _MANY_IMAGES = 300, 500, 1000
_CLEARLY = 3.0  # standard errors
TRIED_IMAGES = 600
_TRIED_OUT_OF_DOMAIN_IMAGES = 2000  # features that have to change need more images until they are better
_LINEAR_WORK = 1_000_000  # images times features times classes up to which all linear recipes are tried


def choose(inputs: SearchInputs) -> Choice:
    """Try candidates, the cheapest first, and choose the cheapest that no other one clearly beats.

    The accuracy of frozen features at every cut decides where the search starts: if features of an earlier cut are
    clearly better than those after the last block, the images are unlike those of pretraining, and the search goes
    deeper. It continues as long as each candidate leads the best so far by more than `_required_lead`.

    Args:
        inputs: network, images and options.
    """
    survey = chooses_cut(inputs.options)
    depths = _survey(inputs) if survey else ()
    out_of_domain = is_out_of_domain(depths, inputs.metric)
    tried = _TRIED_OUT_OF_DOMAIN_IMAGES if out_of_domain else TRIED_IMAGES
    folds = trial_folds(inputs.extracted.labels.numpy(), tried, inputs.options.seed)
    if not folds:
        return _default_choice(inputs)
    trials = Trials(inputs=inputs, folds=folds)
    if not survey:
        return _choose_learning_rate(trials)
    best = _best_linear(trials) if inputs.options.requested_recipe == AUTO else None
    best, reason = _search(trials, best, out_of_domain=out_of_domain)
    return _choice(trials, best, reason, depths)


def trial_folds(labels: np.ndarray, tried: int, seed: int) -> tuple[Fold, ...]:
    """Split the images, or a stratified subset of many, because trials have to be cheap."""
    rows = stratified_part(labels, tried, seed, least=FOLDS) if len(labels) >= 2 * tried else np.arange(len(labels))
    return tuple(Fold(rows[train], rows[held_out]) for train, held_out in stratified_folds(labels[rows], FOLDS, seed))


def is_out_of_domain(depths: Sequence[DepthScore], metric: Metric = ACCURACY) -> bool:
    """Return whether the images are unlike those that the network was pretrained on.

    They are if features of an earlier cut are clearly better than those after the last block: by three standard errors,
    because the best of many cuts is always slightly better. They also are if no features classify half of the images
    correctly. Their balanced accuracy is not asked for that: it is low wherever a class has a handful of images.

    Args:
        depths: accuracy by cut, from the input to the head; empty if no images could be held out.
        metric: which accuracy to compare.
    """
    if not depths:
        return False
    best = max(by_metric(depth, metric).mean for depth in depths)
    last = by_metric(depths[-1], metric)
    is_earlier_better = best - last.mean > _CLEARLY * last.standard_error
    return is_earlier_better or max(depth.accuracy for depth in depths) < 0.5  # noqa: PLR2004


def _survey(inputs: SearchInputs) -> tuple[DepthScore, ...]:
    extracted = inputs.extracted
    labels = extracted.labels[extracted.surveyed]
    # If not all images were surveyed, a rare class may have too few of them to hold any out.
    enough = torch.bincount(labels)[labels] >= FOLDS
    labels = labels[enough].unique(return_inverse=True)[1]
    if len(labels.unique()) < 2:  # noqa: PLR2004 - features cannot separate a single class
        return ()
    folds = stratified_folds(labels.numpy(), FOLDS, inputs.options.seed)
    borders = {position: pooled[enough] for position, pooled in extracted.borders.items()}
    return survey_cuts(inputs.network, borders, labels, folds, inputs.reporter, inputs.metric)


def _default_choice(inputs: SearchInputs) -> Choice:
    """Choose without trials: what was requested, otherwise the probe or the recipe's first learning rate."""
    options = inputs.options
    candidate = Candidate.linear(PROBE)
    if options.requested_recipe != AUTO:
        cut = middle_cut(inputs.network) if chooses_cut(options) else requested_cut(options)
        learning_rate = options.learning_rate or block_recipe(options.requested_recipe).learning_rates[0]
        candidate = Candidate(options.requested_recipe, cut, learning_rate)
    why = "a class has too few images to hold any out, so no candidates were compared"
    return Choice(candidate=candidate, reason=f"{candidate}: {why}")


def _choose_learning_rate(trials: Trials) -> Choice:
    """Choose the learning rate of a recipe and cut that were requested."""
    options = trials.inputs.options
    learning_rates = block_recipe(options.requested_recipe).learning_rates
    tried = [Candidate(options.requested_recipe, requested_cut(options), one) for one in learning_rates]
    best = tried[0]
    for candidate in tried:
        trials.run(candidate)
        best = candidate if trials.lead(candidate, best) > 1 else best
    return _choice(trials, best, f"best of {len(tried)} learning rates", ())


def _best_linear(trials: Trials) -> Candidate:
    """Return the softmax regression unless another linear recipe is clearly better."""
    extracted = trials.inputs.extracted
    best = Candidate.linear(PROBE)
    trials.run(best)
    if extracted.features[:, 0].numel() * len(np.unique(extracted.labels)) > _LINEAR_WORK:
        return best
    for other in (Candidate.linear(recipe.name) for recipe in linear_recipes()):
        trials.run(other)
        best = other if trials.lead(other, best) > 1 and trials.gain(other, best) > 0 else best
    return best


def _search(trials: Trials, best: Candidate | None, *, out_of_domain: bool) -> tuple[Candidate, str]:
    """Try the recipes that train blocks, from the cheapest on, as long as more training is better."""
    images, network = len(trials.inputs.extracted.labels), trials.inputs.network
    scope = SearchScope(few_images=best is None or images < _SEVERAL_IMAGES, out_of_domain=out_of_domain)
    reason, learning_rates = "no candidate was clearly better", _learning_rates(trials.inputs.options, scope)
    for recipe, cut in _search_steps(network.block_names, scope):
        if best is not None and trials.is_nearly_perfect(best):
            return best, "it misclassifies too few images for another candidate to be clearly better"
        required = 0.0 if best is None else _required_lead(best, images)
        tried = [Candidate(recipe, cut, learning_rate) for learning_rate in learning_rates]
        for candidate in tried:
            trials.run(candidate, best, required)
        challenger = max(tried, key=trials.accuracy)
        learning_rates = (challenger.learning_rate,)
        if best is None:
            best, reason = challenger, "no deeper cut was clearly better"
            continue
        lead = trials.lead(challenger, best)
        if lead <= required:
            break
        best, reason = challenger, "it beat every cheaper candidate in cross-validation"
        if lead <= 0:
            reason = "its short trial was not clearly worse, and with this many images full training is usually better"
    if best is None:
        raise AssertionError("no registered recipe has cuts to search")
    return best, reason


def _required_lead(best: Candidate, images: int) -> float:
    """Return the lead, in standard errors, that more training must have over the best candidate so far.

    Over another trained candidate it is 1. Over a linear one it falls with the number of images, from 1 at 300 to -1
    at 1,000: trials train on fewer images and for fewer epochs than the run does, and with thousands of images training
    is usually better, so the linear candidate must be clearly better to be kept.
    """
    if not is_linear(best.recipe):
        return 1.0
    return 1 - 2 * min(1.0, max(0.0, (images - _FEW_IMAGES) / (_MANY_IMAGES - _FEW_IMAGES)))


def _search_steps(block_names: Sequence[str], scope: SearchScope) -> Iterator[tuple[str, str]]:
    for recipe in block_recipes():
        for cut in recipe.search_cuts(block_names, scope):
            yield recipe.name, cut


def _learning_rates(options: TuneOptions, scope: SearchScope) -> tuple[float, ...]:
    """Return the learning rates to try: large steps destroy features that fit, so they are tried only out of domain."""
    if options.learning_rate is not None:
        return (options.learning_rate,)
    return BOTH_LEARNING_RATES if scope.out_of_domain else BOTH_LEARNING_RATES[:1]


def _choice(trials: Trials, best: Candidate, reason: str, depths: tuple[DepthScore, ...]) -> Choice:
    scores = tuple(
        score(one, trials.correct(one), trials.labels(one), chosen=one == best) for one in trials.evaluations
    )
    found = "; ".join(f"{one} {trials.accuracy(one):.3f}" for one in trials.evaluations)
    return Choice(
        candidate=best,
        reason=f"{best}: {reason} (cross-validated {METRIC_NAMES[trials.inputs.metric]}: {found})",
        depths=depths,
        scores=scores,
    )
