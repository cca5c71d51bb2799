"""Test whether a flipped image still belongs to its class: letters and digits do not, most photographs do."""

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
from unfreeze.tune.features.activations import Cached
from unfreeze.tune.features.cache import pooled_features
from unfreeze.tune.linear.probe import fit_probe

_IMAGES, _LEAST_PER_CLASS = 300, 4
_FOLDS = 2
_REGULARIZATION = 1e-2
_CLEARLY = 2.0  # standard errors


def tolerates_flips(
    network: Network, images: Sequence[LabeledImage], spec: PreprocessSpec, precision: Precision, seed: int = 0
) -> bool:
    """Test whether a linear classifier is as accurate on horizontally flipped images as on the images themselves.

    Args:
        network: pretrained, in eval mode, on the precision's device.
        images: training images. About 300 of them are used, at least four per class; classes with fewer are left out.
        spec: how they are prepared.
        precision: device and numeric type to compute in.
        seed: random seed of the images that are used.

    Returns:
        True if held-out images are classified better than by chance, and flipped ones not clearly worse: not by more
        than two standard errors of the paired difference. False if fewer than two classes have enough images.
    """
    pixels, labels = _load(_choose_images(images, seed), spec)
    if len(labels.unique()) < 2:  # noqa: PLR2004 - nothing to tell apart
        return False
    folds = stratified_folds(labels.numpy(), _FOLDS, seed)
    if not folds:
        return False
    both = Cached(position=0, activations=torch.cat([pixels, pixels.flip(3)], 1), labels=labels)
    features = pooled_features(network, both, precision)
    plain, flipped = torch.cat([_correct(features, labels, fold, seed) for fold in folds]).double().unbind(1)
    margin = _CLEARLY / len(plain) ** 0.5
    by_chance = torch.bincount(labels).max() / len(labels)
    is_classified = float(plain.mean() - by_chance) > margin * float(plain.std())
    return is_classified and bool(float((flipped - plain).mean()) >= -margin * float((flipped - plain).std()))


def _choose_images(images: Sequence[LabeledImage], seed: int) -> list[LabeledImage]:
    """Choose a stratified subset of the classes that have enough images."""
    labels = labels_of(images).numpy()
    chosen = stratified_part(labels, _IMAGES, seed, least=_LEAST_PER_CLASS)
    return [images[row] for row in chosen[np.bincount(labels)[labels[chosen]] >= _LEAST_PER_CLASS]]


def _load(images: Sequence[LabeledImage], spec: PreprocessSpec) -> tuple[Tensor, Tensor]:
    """Load the images that decode, uint8 [n, 1, H, W, 3], and renumber their labels from 0, int64 [n]."""
    loaded = list(load_views(images, Views(spec=spec), []))
    if not loaded:
        return torch.empty(0, 1, *spec.shape, dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
    labels = labels_of([image for image, _ in loaded]).unique(return_inverse=True)[1]
    return torch.from_numpy(np.stack([views for _, views in loaded])), labels


def _correct(features: Tensor, labels: Tensor, fold: Fold, seed: int) -> Tensor:
    """Return which held-out images of a fold are classified correctly, unflipped and flipped: bool [n, 2]."""
    probe = fit_probe(features[fold.train, :1], labels[fold.train], seed=seed, inverse_regularization=_REGULARIZATION)
    return probe.classify(features[fold.held_out]).argmax(2) == labels[fold.held_out, None]
