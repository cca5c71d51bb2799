"""Principal components of features: few numbers for each image, from which the images can be drawn as a map."""

from dataclasses import dataclass
from typing import Self

import torch
from sklearn.decomposition import PCA
from torch import Tensor

from unfreeze.contract.arrays import Float32

_CONSTANT = 0.01  # of the median deviation; below it, a feature counts as constant, and is left out
_MOST = 50  # what t-SNE and UMAP are usually given; further components are mostly noise to them


@dataclass(frozen=True, kw_only=True)
class PrincipalComponents:
    """A linear map from features [n, F] to their K principal components.

    Args:
        mean: of the features that they were fitted to, float32 [F].
        basis: float32 [F, K]; includes the division by the features' standard deviations.
    """

    mean: Tensor
    basis: Tensor

    @classmethod
    def fit(cls, features: Float32[Tensor, "n f"]) -> Self:
        """Fit at most 50 components to features, each standardized first; as many as images at most."""
        mean, deviation = features.mean(0), features.std(0, correction=0)
        inverse = torch.where(deviation > _CONSTANT * deviation.median(), 1 / deviation, 0)
        count = min(_MOST, *features.shape)
        found = PCA(count, svd_solver="randomized", random_state=0).fit(((features - mean) * inverse).numpy())
        basis = torch.from_numpy(found.components_).float().T * inverse[:, None]
        return cls(mean=mean, basis=basis.contiguous())

    def of(self, features: Float32[Tensor, "n f"]) -> Float32[Tensor, "n k"]:
        """Return the components of features."""
        return (features - self.mean) @ self.basis
