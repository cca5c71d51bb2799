"""Find out whether a mirrored picture is still one of its class: letters and digits are not, most photographs are."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from contract.preprocess import PreprocessSpec
from tune.cache import Cached, pooled_features
from tune.evaluate import labels_of
from tune.folds import Fold, stratified_folds, stratified_part
from tune.network import Network
from tune.pictures import Picture
from tune.precision import Precision
from tune.probe import fit_probe
from tune.views import Views, load_views

_PICTURES, _OF_EACH = 300, 4
_REGULARISATION = 1e-2
_CLEARLY = 2.0  # standard errors


def stays_itself(
    network: Network, pictures: Sequence[Picture], spec: PreprocessSpec, precision: Precision, seed: int = 0
) -> bool:
    """Ask a linear classifier of some pictures whether it tells others when they are mirrored as well as when not.

    Args:
        network: pretrained, in eval mode, on the precision's device.
        pictures: for training; 300 or so, and four of each class that has as many, are looked at.
        spec: how they are prepared.
        precision: to run in.
        seed: of which are looked at.

    Returns:
        Whether others are told at all, better than by chance, and mirrored ones not clearly worse: not by two standard
        errors of the paired difference. False where there are too few pictures to ask.
    """
    labels = labels_of(pictures).numpy()
    some = stratified_part(labels, _PICTURES, seed, least=_OF_EACH)
    some = some[np.bincount(labels)[labels[some]] >= _OF_EACH]
    loaded = list(load_views([pictures[index] for index in some], Views(spec=spec), []))
    looked_at = labels_of([picture for picture, _ in loaded]).unique(return_inverse=True)[1]
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
    """Tell which of a fold's held-out pictures are told right as they are, and which mirrored: bool [n, 2]."""
    probe = fit_probe(features[fold.train, :1], labels[fold.train], seed=seed, inverse_regularisation=_REGULARISATION)
    standardised = (features[fold.held_out] - probe.mean) * probe.inverse_std
    return (standardised @ probe.weight.T + probe.bias).argmax(2) == labels[fold.held_out, None]
