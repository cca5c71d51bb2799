"""Find out whether a flipped image is still one of its class: letters and digits are not, most photographs are."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.data.folds import Fold, stratified_folds, stratified_part
from unfreeze.tune.data.images import LabeledImage, labels_of
from unfreeze.tune.data.views import Views, load_views
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.features.cache import Cached, pooled_features
from unfreeze.tune.linear.probe import fit_probe

_IMAGES, _OF_EACH = 300, 4
_REGULARIZATION = 1e-2
_CLEARLY = 2.0  # standard errors


def stays_itself(
    network: Network, images: Sequence[LabeledImage], spec: PreprocessSpec, precision: Precision, seed: int = 0
) -> bool:
    """Ask a linear classifier of some images whether it tells others when they are flipped as well as when not.

    Args:
        network: pretrained, in eval mode, on the precision's device.
        images: for training; 300 or so, and four of each class that has as many, are looked at.
        spec: how they are prepared.
        precision: to run in.
        seed: of which are looked at.

    Returns:
        Whether others are told at all, better than by chance, and flipped ones not clearly worse: not by two standard
        errors of the paired difference. False where there are too few images to ask.
    """
    labels = labels_of(images).numpy()
    some = stratified_part(labels, _IMAGES, seed, least=_OF_EACH)
    some = some[np.bincount(labels)[labels[some]] >= _OF_EACH]
    loaded = list(load_views([images[index] for index in some], Views(spec=spec), []))
    looked_at = labels_of([image for image, _ in loaded]).unique(return_inverse=True)[1]
    folds = stratified_folds(looked_at.numpy(), 2, seed) if loaded else ()
    if not folds:
        return False
    as_served = torch.from_numpy(np.stack([views for _, views in loaded]))
    both = Cached(position=0, activations=torch.cat([as_served, as_served.flip(3)], 1), labels=looked_at)
    features = pooled_features(network, both, precision)
    plain, turned = torch.cat([_hits(features, looked_at, fold, seed) for fold in folds]).double().unbind(1)
    error = _CLEARLY / len(plain) ** 0.5
    by_chance = torch.bincount(looked_at).max() / len(looked_at)
    is_told = float(plain.mean() - by_chance) > error * float(plain.std())
    return is_told and float((turned - plain).mean()) >= -error * float((turned - plain).std())


def _hits(features: Tensor, labels: Tensor, fold: Fold, seed: int) -> Tensor:
    """Tell which of a fold's held-out images are told right as they are, and which flipped: bool [n, 2]."""
    probe = fit_probe(features[fold.train, :1], labels[fold.train], seed=seed, inverse_regularization=_REGULARIZATION)
    standardized = (features[fold.held_out] - probe.mean) * probe.inverse_std
    return (standardized @ probe.weight.T + probe.bias).argmax(2) == labels[fold.held_out, None]
