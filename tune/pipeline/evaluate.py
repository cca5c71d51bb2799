"""Evaluate the tuned network, and the probe that training started from."""

from collections.abc import Sequence

import numpy as np

from unfreeze.contract.errors import DivergenceError
from unfreeze.tune.artifacts.embedding import choose_embedded
from unfreeze.tune.artifacts.results import ThresholdOptions, TuningResult, calibrated_result
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.data.dataset import TEST, VAL
from unfreeze.tune.data.images import LabeledImage
from unfreeze.tune.evaluation.accuracy import METRIC_NAMES, accuracy_by
from unfreeze.tune.evaluation.evaluate import Evaluation, evaluate_together
from unfreeze.tune.ood.detector import ChosenScore
from unfreeze.tune.pipeline.context import RunContext
from unfreeze.tune.recipes.recipe import BlockRecipe
from unfreeze.tune.recipes.registry import recipe_of
from unfreeze.tune.selection.candidate import Candidate
from unfreeze.tune.selection.choice import Choice
from unfreeze.tune.training.train import Training


def evaluate_run(
    context: RunContext,
    choice: Choice,
    tuned: Network,
    probed: Network,
    training: Training | None,
    score: ChosenScore | None = None,
) -> TuningResult:
    """Evaluate on the validation and test images, and calibrate.

    Args:
        context: state of the run; files that cannot be decoded are removed from its dataset.
        choice: how the network was tuned.
        tuned: the tuned network.
        probed: pretrained network with the probe as its head; the tuned one itself if the probe is the result.
        training: the finished training; None if the recipe is linear.
        score: recognizes images unlike the training images; None for the maximum softmax.

    Raises:
        DataError: no validation or test image can be decoded.
        DivergenceError: the network's outputs are not finite.
    """
    evaluations = _validate(context, choice.candidate, tuned, probed)
    images = context.dataset.splits.get(TEST)
    test = _evaluate(context, choice.candidate, [tuned], images)[0] if images else None
    thresholds = ThresholdOptions(
        abstain_precision=context.options.abstain_precision, false_alarms=context.options.ood_false_alarms
    )
    return calibrated_result(tuned, choice, evaluations, test, training, thresholds, score or ChosenScore())


def _validate(context: RunContext, candidate: Candidate, network: Network, probed: Network) -> list[Evaluation]:
    """Evaluate the network, then the probe; once if they are the same."""
    networks = [network] if network is probed else [network, probed]
    images = context.dataset.splits[VAL]
    evaluations = _evaluate(context, candidate, networks, images, choose_embedded(len(images), VAL))
    context.dataset = context.dataset.without(evaluations[0].skipped)
    if not evaluations[0].logits.isfinite().all():
        raise DivergenceError("the trained network's outputs are not finite; use a smaller --learning-rate")
    found, probe = (accuracy_by(context.metric, each).mean for each in (evaluations[0], evaluations[-1]))
    if found < probe:
        context.reporter.info(
            f"validation {METRIC_NAMES[context.metric]} is lower than that of the probe alone ({found:.3f} < "
            f"{probe:.3f}); --recipe probe gives the probe"
        )
    return evaluations


def _evaluate(
    context: RunContext,
    candidate: Candidate,
    networks: Sequence[Network],
    images: Sequence[LabeledImage],
    featured: Sequence[int] | np.ndarray = (),
) -> list[Evaluation]:
    return evaluate_together(
        networks,
        _shared_blocks(context, candidate),
        images,
        context.pretrained.spec,
        context.precision.device,
        context.reporter.track("evaluating in full precision", len(images)),
        context.evaluation_rows,
        featured=featured,
    )


def _shared_blocks(context: RunContext, candidate: Candidate) -> int:
    """Count the unchanged blocks before the first trained one."""
    recipe = recipe_of(candidate.recipe)
    if isinstance(recipe, BlockRecipe) and not recipe.pretrained:
        return 0
    return context.network.position(candidate.cut)
