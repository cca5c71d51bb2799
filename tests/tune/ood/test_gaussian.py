"""Distances of features: what the published formulas give."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf

from unfreeze.tune.ood.gaussian import Gaussians


def _data(images: int = 600, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of three classes, of different scales, correlated; one feature is constant."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % 3
    mixed = torch.randn(images, width, generator=generator) @ torch.randn(width, width, generator=generator)
    features = mixed + 4 * torch.randn(3, width, generator=generator)[labels]
    features[:, 1] *= 1000
    features[:, 2] = 7.0
    return features, labels


@pytest.mark.parametrize("kind", ["absolute", "relative"])
def test_distances_are_those_of_the_published_formulas(kind: str) -> None:
    """The smallest (f - m)' S^-1 (f - m) of the classes, less that of all images where it is relative.

    S is shrunk as Ledoit and Wolf do, which does not depend on the basis of the components.
    """
    features, labels = _data()
    features = features[:, [0, 1, 3, 4, 5, 6, 7]]  # the constant one has no covariance
    values, y = features.double().numpy(), labels.numpy()
    values = (values - values.mean(0)) / values.std(0)
    means = np.stack([values[y == label].mean(0) for label in range(3)])
    within, shrinkage = ledoit_wolf(values - means[y], assume_centered=True)
    assert 0 < shrinkage < 0.5
    differences = values[:, None] - means
    expected = np.einsum("ncf,fg,ncg->nc", differences, np.linalg.inv(within), differences).min(1)
    if kind == "relative":
        total = within + np.cov(means[y].T, bias=True)
        expected -= np.einsum("nf,fg,ng->n", values, np.linalg.inv(total), values)
    found = Gaussians.fit(features, labels).distance(features, relative=kind == "relative")
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_what_lies_outside_of_the_components_counts() -> None:
    """An image that differs only where the training images hardly vary is far away, but not relatively."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(200) % 2
    features = torch.randn(200, 3, generator=generator) @ torch.randn(3, 40, generator=generator)
    features += 0.05 * torch.randn(200, 40, generator=generator)
    gaussians = Gaussians.fit(features, labels)
    direction = torch.linalg.svd(features - features.mean(0)).Vh[-1]
    usual, strange = features[:1], features[:1] + 3 * direction
    assert gaussians.distance(strange, relative=False) > 10 * gaussians.distance(usual, relative=False)


@pytest.mark.parametrize("images", [2, 3, 5])
def test_few_images_and_constant_features_give_finite_distances(images: int) -> None:
    """Also for fewer images than features, of which some are constant, and for classes of one image."""
    features, _ = _data(images)
    gaussians = Gaussians.fit(features, torch.arange(images) % 2)
    for relative in (False, True):
        assert gaussians.distance(_data(50)[0], relative=relative).isfinite().all()
