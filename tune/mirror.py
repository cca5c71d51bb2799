"""Find out whether a mirrored picture is still one of its class: letters and digits are not, most photographs are."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from contract.preprocess import PreprocessSpec
from tune.cache import Cached, pooled_features
from tune.evaluate import labels_of
from tune.folds import Fold, stratified_folds
from tune.network import Head, Network
from tune.pictures import Picture
from tune.precision import Precision
from tune.probe import fit_probe
from tune.views import Views, load_views

_PICTURES = 300
_REGULARISATION = 1e-2
_CLEARLY = 2.0  # standard errors


def stays_itself(
    network: Network, pictures: Sequence[Picture], spec: PreprocessSpec, precision: Precision, seed: int = 0
) -> bool:
    """Ask a linear classifier of some pictures whether it tells others when they are mirrored as well as when not.

    Args:
        network: pretrained, in eval mode, on the precision's device.
        pictures: for training; a stratified part of them, 300 or so, is looked at.
        spec: how they are prepared.
        precision: to run in.
        seed: of which are looked at.

    Returns:
        Whether mirrored ones are not told clearly worse: not by two standard errors of the paired difference.
    """
    labels = labels_of(pictures).numpy()
    parts = stratified_folds(labels, len(labels) // _PICTURES, seed)
    some = [pictures[index] for index in (parts[0].held_out if parts else range(len(pictures)))]
    loaded = list(load_views(some, Views(spec=spec), []))
    looked_at = labels_of([picture for picture, _ in loaded])
    folds = stratified_folds(looked_at.numpy(), 2, seed)
    if not folds:
        return False
    as_served = torch.from_numpy(np.stack([views for _, views in loaded]))
    both = Cached(position=0, activations=torch.cat([as_served, as_served.flip(3)], 1), labels=looked_at)
    features = pooled_features(network, both, precision)
    change = torch.cat([_change(network.head, features, looked_at, fold, seed) for fold in folds])
    return float(change.mean()) >= -_CLEARLY * float(change.std()) / len(change) ** 0.5


def _change(head: Head, features: Tensor, labels: Tensor, fold: Fold, seed: int) -> Tensor:
    """Tell how mirroring changes the hits on a fold's held-out pictures: -1, 0 or 1 each, [n]."""
    probe = fit_probe(features[fold.train, :1], labels[fold.train], seed=seed, inverse_regularisation=_REGULARISATION)
    head = copy.deepcopy(head).cpu()
    probe.put_into(head)
    with torch.inference_mode():
        hits = head.classify(features[fold.held_out]).argmax(2) == labels[fold.held_out, None]
    return hits[:, 1].double() - hits[:, 0].double()
