"""Choose the score that recognizes images unlike the training images."""

import torch
from torch import Tensor

from unfreeze.contract.model.ood import METHODS
from unfreeze.tune.data.dataset import TRAIN
from unfreeze.tune.data.folds import stratified_part
from unfreeze.tune.data.images import labels_of
from unfreeze.tune.linear.probe import Probe
from unfreeze.tune.ood.comparison import compare_scores
from unfreeze.tune.ood.detector import ChosenScore
from unfreeze.tune.ood.gaussian import Gaussians
from unfreeze.tune.ood.score import FEATURE_METHODS
from unfreeze.tune.pipeline.context import RunContext
from unfreeze.tune.recipes.registry import is_linear
from unfreeze.tune.selection.choice import Choice

_MOST_IMAGES = 20_000  # that the Gaussians are fitted to


def choose_score(context: RunContext, features: Tensor, probe: Probe, choice: Choice) -> ChosenScore | None:
    """Compare scores on classes that are left out, with features that are known already.

    Training blocks changes the features, so that distances of features are only compared where none is trained.

    Args:
        context: state of the run.
        features: of all training images, float32 [N, V, F]; the first view is used.
        probe: fitted on them.
        choice: how the network is tuned.

    Returns:
        None if no score is requested.
    """
    if not context.options.ood_false_alarms:
        return None
    served, labels = features[:, 0].contiguous(), labels_of(context.dataset.splits[TRAIN])
    is_frozen = is_linear(choice.candidate.recipe)
    methods = tuple(one for one in METHODS if is_frozen or one not in FEATURE_METHODS)
    seed = context.options.seed
    comparison = compare_scores(served, labels, probe.inverse_regularization, seed, methods, context.reporter)
    chosen = ChosenScore(comparison=comparison)
    if comparison is not None:
        context.reporter.info(f"out of distribution: {comparison.message}")
    if chosen.method not in FEATURE_METHODS:
        return chosen
    rows = torch.from_numpy(stratified_part(labels.numpy(), _MOST_IMAGES, seed, least=2))
    return ChosenScore(comparison=comparison, gaussians=Gaussians.fit(served[rows], labels[rows]))
