"""Extract features, fit the probe, and choose a candidate; or read the choice of an interrupted run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unfreeze.tune.artifacts.embedding import choose_embedded
from unfreeze.tune.artifacts.resume import CHOICE
from unfreeze.tune.data.dataset import TRAIN
from unfreeze.tune.data.images import labels_of
from unfreeze.tune.features.components import PrincipalComponents
from unfreeze.tune.features.extract import ExtractedFeatures, extract_features
from unfreeze.tune.issues.issue import Issue
from unfreeze.tune.linear.probe import Probe, fit_probe
from unfreeze.tune.ood.detector import ChosenScore
from unfreeze.tune.options import BALANCED
from unfreeze.tune.pipeline.context import RunContext
from unfreeze.tune.pipeline.issues import training_issues
from unfreeze.tune.pipeline.out_of_distribution import choose_score
from unfreeze.tune.recipes.registry import PROBE, is_linear, linear_recipe
from unfreeze.tune.selection.candidate import Candidate
from unfreeze.tune.selection.choice import Choice, choice_from_state, choice_state
from unfreeze.tune.selection.choose import choose
from unfreeze.tune.selection.request import chooses_cut, earliest_cut, requested_candidate
from unfreeze.tune.selection.trials import SearchInputs


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """How to tune, and what was computed on the way.

    Args:
        choice: how to tune.
        probe: fitted on all training images.
        issues: suspicious training images; only the first of several processes has them.
        components: map features to their principal components; None in all but the first of several processes, and
            if an earlier version began the run.
        embedded: components of the training images that `choose_embedded` chooses, float32 [n, K].
        score: recognizes images unlike these; None in all but the first of several processes, if none is requested, or
            if an earlier version began the run.
        extracted: features and activations of the training images; None if the rest was read from the state of an
            interrupted run.
    """

    choice: Choice
    probe: Probe
    issues: tuple[Issue, ...]
    components: PrincipalComponents | None
    embedded: Tensor
    score: ChosenScore | None
    extracted: ExtractedFeatures | None


def choose_candidate(context: RunContext) -> Chosen:
    """Choose how to tune.

    Args:
        context: state of the run; files that cannot be decoded are removed from its dataset.
    """
    saved = context.resume_state.load(CHOICE)
    context.workers.barrier()
    if saved is not None:
        known = tuple(_issue(state) for state in saved.get("issues", ()))
        choice = choice_from_state(saved["choice"])
        return Chosen(
            choice=choice,
            probe=Probe(**saved["probe"]),
            issues=known,
            components=PrincipalComponents(**saved["components"]) if "components" in saved else None,
            embedded=saved.get("embedded", torch.empty(0, 0)),
            score=ChosenScore.from_state(saved["score"]) if saved.get("score") else None,
            extracted=None,
        )
    requested = requested_candidate(context.options)
    extracted = extract_training_images(context, requested)
    features = context.workers.collect(extracted.features, len(context.dataset.splits[TRAIN]))
    choice, probe = _choose(context, requested, extracted, features)
    if not context.workers.is_leader:
        return Chosen(
            choice=choice,
            probe=probe,
            issues=(),
            components=None,
            embedded=torch.empty(0, 0),
            score=None,
            extracted=extracted,
        )
    issues = training_issues(context, features, probe)
    score = choose_score(context, features, probe, choice)
    served = features[choose_embedded(len(features)), 0]
    components = PrincipalComponents.fit(served)
    embedded = components.of(served)
    state = {
        "choice": choice_state(choice),
        "probe": vars(probe),
        "issues": [vars(issue) | {"path": str(issue.path)} for issue in issues],
        "components": vars(components),
        "embedded": embedded,
        "score": None if score is None else score.state(),
    }
    context.resume_state.save(CHOICE, state)
    return Chosen(
        choice=choice,
        probe=probe,
        issues=issues,
        components=components,
        embedded=embedded,
        score=score,
        extracted=extracted,
    )


def _issue(state: dict[str, Any]) -> Issue:
    """Restore an issue from the state of an interrupted run."""
    return Issue(**state | {"path": Path(state["path"])})


def extract_training_images(context: RunContext, requested: Candidate | None) -> ExtractedFeatures:
    """Run all blocks over the training images once, and cache activations where they may be needed.

    Args:
        context: state of the run; files that cannot be decoded are removed from its dataset.
        requested: what is known to be tuned; None if the search chooses.
    """
    network, options, images = context.network, context.options, context.own_images
    cut = earliest_cut(network, options) if requested is None else requested.cut
    extracted = extract_features(
        network,
        network.position(cut),
        images,
        context.views,
        context.precision,
        context.placement,
        context.reporter.track("running the backbone over the training images", len(images)),
        survey=requested is None and chooses_cut(options),
        stored=context.training_rows,
    )
    context.dataset = context.dataset.without(extracted.skipped)
    return extracted


def _choose(
    context: RunContext, requested: Candidate | None, extracted: ExtractedFeatures, features: Tensor
) -> tuple[Choice, Probe]:
    if requested is not None:
        choice = Choice(candidate=requested, reason=f"{requested}: as requested")
        return choice, _fit(context, features, requested.recipe if is_linear(requested.recipe) else PROBE)
    if context.options.metric == "auto" and context.metric == BALANCED:
        context.reporter.info("classes differ much in size, so candidates are compared by balanced accuracy (--metric)")
    probe = _fit(context, features, PROBE)
    choice = choose(
        SearchInputs(
            network=context.network,
            extracted=extracted,
            probe=probe,
            options=context.options,
            precision=context.precision,
            placement=context.placement,
            reporter=context.reporter,
            allows_flips=lambda: context.allows_flips,
        )
    )
    recipe = choice.candidate.recipe
    refit = is_linear(recipe) and recipe != PROBE
    return choice, _fit(context, features, recipe) if refit else probe


def _fit(context: RunContext, features: Tensor, recipe: str) -> Probe:
    context.reporter.info(f"fitting {recipe} on frozen features")
    return fit_probe(
        features,
        labels_of(context.dataset.splits[TRAIN]),
        recipe=linear_recipe(recipe),
        seed=context.options.seed,
        balanced=context.options.class_weights == "balanced",
    )
