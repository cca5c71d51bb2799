"""How far the features of a window of images are from those of the validation images."""

from dataclasses import dataclass

import numpy as np

from unfreeze.contract.arrays import Float32, Float64
from unfreeze.contract.drift.chi_square import chi_square_quantile

FEWEST_IMAGES = 50
FALSE_ALARM = 1e-5  # for a quantity in a window
_SMALLEST_DISTANCE = 0.5  # of the means, in standard deviations


@dataclass(frozen=True, kw_only=True)
class FeatureDrift:
    """How far the features of a window are from those of the validation images.

    Args:
        images: of the window.
        mahalanobis: distance of the mean features, in standard deviations of the validation images.
        expected_mahalanobis: its root mean square for images like the validation images, in a window of this size.
        frechet: Frechet distance of the two normal distributions (as in Heusel et al. 2017, arXiv:1706.08500), in
            squared standard deviations; about 0 for large windows of images like the validation images.
        alarm: whether the distance is larger than chance and size of the window explain, and large enough to matter.
    """

    images: int
    mahalanobis: float
    expected_mahalanobis: float
    frechet: float
    alarm: bool


NO_FEATURE_DRIFT = FeatureDrift(images=0, mahalanobis=0.0, expected_mahalanobis=0.0, frechet=0.0, alarm=False)


def feature_drift(validation_images: int, products: Float64[np.ndarray, "one_more one_more"]) -> FeatureDrift:
    """Compare features with those of validation images, whose mean is 0 and whose covariance is the identity.

    For images like the validation images, the squared distance of the means, divided by 1/n + 1/m, is Hotelling's
    T-squared (1931, https://doi.org/10.1214/aoms/1177732979): a ratio of two chi-square variables. Its quantile is
    bounded by quantiles of the two, each of which is exceeded with half of the probability.

    Args:
        validation_images: m, more than the number of features.
        products: of the n images of the window, see `products_of`.
    """
    images = int(products[0, 0])
    if not images:
        return NO_FEATURE_DRIFT
    mean, second = products[0, 1:] / images, products[1:, 1:] / images
    noise, count = 1 / images + 1 / validation_images, len(mean)
    squared = float(mean @ mean)
    spreads = np.sqrt(np.clip(np.linalg.eigvalsh(second - np.outer(mean, mean)), 0, None))
    freedom = max(1, validation_images - count)
    largest = chi_square_quantile(1 - FALSE_ALARM / 2, count)
    smallest = chi_square_quantile(FALSE_ALARM / 2, freedom) / freedom
    unlikely = squared / noise > largest / max(smallest, 1e-9)
    return FeatureDrift(
        images=images,
        mahalanobis=squared**0.5,
        expected_mahalanobis=(count * noise) ** 0.5,
        frechet=squared + float(((spreads - 1) ** 2).sum()),
        alarm=unlikely and squared**0.5 > _SMALLEST_DISTANCE and images >= FEWEST_IMAGES,
    )


def no_products(features: int) -> Float64[np.ndarray, "one_more one_more"]:
    """Return what `products_of` adds up to without any image."""
    return np.zeros((features + 1, features + 1))


def products_of(features: Float32[np.ndarray, "n k"]) -> Float64[np.ndarray, "one_more one_more"]:
    """Return the number of images, the sums of their features and the sums of their products, which can be added up.

    Images with features that are not finite are left out.
    """
    values = features[np.isfinite(features).all(axis=1)].astype(np.float64)
    extended = np.concatenate([np.ones((len(values), 1)), values], axis=1)
    products: np.ndarray = extended.T @ extended
    return products
