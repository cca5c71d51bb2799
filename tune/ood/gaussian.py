"""Distances of features from those of the training images: one Gaussian for each class, with a shared covariance."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA
from torch import Tensor

from unfreeze.contract.arrays import Float32, Int64

_MOST = 128  # components: the matrix is small beside a network, also for 2,048 features
_IMAGES_PER_COMPONENT = 4
_CONSTANT = 0.01  # of the median deviation; below it, a feature counts as constant, and is left out
_SMALLEST = 1e-6
_SMALLEST_RESIDUAL = 1e-3  # of the variance of a feature


@dataclass(frozen=True, kw_only=True)
class Gaussians:
    """A Gaussian for each class, and one for all images.

    The covariance is that of the classes inside the principal components of the standardized features, with the
    shrinkage of Ledoit and Wolf (2004, https://doi.org/10.1016/S0047-259X(03)00096-4), and a multiple of the identity
    outside of them, as in probabilistic principal component analysis.

    Args:
        center: of all features, float32 [F].
        scale: the inverse of their deviations, float32 [F]; 0 for constant features.
        basis: principal components, float32 [F, K], orthonormal.
        whitening: makes the classes' covariance of components the identity, float32 [K, K].
        means: of the classes, whitened, float32 [C, K].
        whitening_of_all: makes the covariance of the components of all classes the identity, float32 [K, K].
        inverse_residual: inverse variance of a feature outside of the components, float32 []; 0 if none is outside.
    """

    center: Tensor
    scale: Tensor
    basis: Tensor
    whitening: Tensor
    means: Tensor
    whitening_of_all: Tensor
    inverse_residual: Tensor

    @classmethod
    def fit(cls, features: Float32[Tensor, "n f"], labels: Int64[Tensor, " n"]) -> Self:
        """Fit them to pooled features.

        Args:
            features: of the training images, at least two.
            labels: of the images, 0 to C - 1; every class occurs.
        """
        center, deviation = features.mean(0), features.std(0, correction=0)
        scale = torch.where(deviation > _CONSTANT * deviation.median(), 1 / deviation, 0)
        standard = ((features - center) * scale).double().numpy()
        images, width = standard.shape
        count = max(1, min(_MOST, width, images // _IMAGES_PER_COMPONENT))
        found = PCA(count, svd_solver="randomized", random_state=0).fit(standard)
        components = standard @ found.components_.T
        classes, y = int(labels.max()) + 1, labels.numpy()
        means = np.stack([components[y == label].mean(0) for label in range(classes)])
        within, _ = ledoit_wolf(components - means[y], assume_centered=True)
        # With the shrunk covariance inside of the classes, that of all images is larger in every direction.
        whitening, whitening_of_all = _whitening(within), _whitening(within + np.cov(means[y].T, bias=True))
        left = (standard**2).sum() - (components**2).sum()
        outside = int((scale > 0).sum()) - count
        # Where nothing lies outside, the difference of the sums of squares is rounding.
        inverse_residual = 1 / max(left / images / outside, _SMALLEST_RESIDUAL) if outside > 0 else 0.0

        def float32(values: np.ndarray | float) -> Tensor:
            return torch.as_tensor(np.ascontiguousarray(values)).float().reshape(np.shape(values))

        return cls(
            center=center,
            scale=scale,
            basis=float32(found.components_.T),
            whitening=float32(whitening),
            means=float32(means @ whitening),
            whitening_of_all=float32(whitening_of_all),
            inverse_residual=float32(inverse_residual),
        )

    def distance(self, features: Float32[Tensor, "n f"], *, relative: bool) -> Float32[Tensor, " n"]:
        """Return the squared Mahalanobis distance to the nearest class (Lee et al. 2018, arXiv:1807.03888).

        Args:
            features: pooled.
            relative: subtract the distance from the Gaussian of all images (Ren et al. 2021, arXiv:2106.09022), whose
                part outside of the components is the same.
        """
        standard = (features - self.center) * self.scale
        components = standard @ self.basis
        whitened = components @ self.whitening
        nearest = (self.means.square().sum(1) - 2 * whitened @ self.means.T).amin(1) + whitened.square().sum(1)
        if relative:
            return nearest - (components @ self.whitening_of_all).square().sum(1)
        outside = (standard.square().sum(1) - components.square().sum(1)).relu()
        return nearest + outside * self.inverse_residual


def _whitening(covariance: np.ndarray) -> np.ndarray:
    """Return the matrix that makes a covariance the identity."""
    values, vectors = np.linalg.eigh(np.atleast_2d(covariance))
    found: np.ndarray = vectors / np.sqrt(np.maximum(values, _SMALLEST))
    return found
