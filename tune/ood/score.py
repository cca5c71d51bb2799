"""Scores of images: the larger, the less they are like the training images."""

from dataclasses import dataclass

from torch import Tensor

from unfreeze.contract.arrays import Float32
from unfreeze.contract.model.ood import BASELINE, Method
from unfreeze.tune.backbones.link import log_weights
from unfreeze.tune.ood.gaussian import Gaussians

FEATURE_METHODS: tuple[Method, ...] = ("mahalanobis", "relative-mahalanobis")


@dataclass(frozen=True, kw_only=True)
class Score:
    """How a score is computed from what a network's head takes and gives.

    Args:
        method: of `unfreeze.contract.model.ood.METHODS`.
        temperature: that calibrates the probabilities.
        link: how logits become probabilities, "softmax" or "sigmoid".
        gaussians: of the pooled features; None for methods of logits.
    """

    method: Method
    temperature: float
    link: str
    gaussians: Gaussians | None = None

    def of(self, logits: Float32[Tensor, "n c"], features: Float32[Tensor, "n f"]) -> Float32[Tensor, " n"]:
        """Return the scores of images.

        Args:
            logits: of the head.
            features: pooled; not used by methods of logits.
        """
        if self.gaussians is not None:
            return self.gaussians.distance(features, relative=self.method == "relative-mahalanobis")
        if self.method == BASELINE:
            return max_softmax(logits, self.link, self.temperature)
        return energy(logits, self.temperature if self.method == "calibrated-energy" else 1.0)


def max_softmax(logits: Float32[Tensor, "n c"], link: str, temperature: float) -> Float32[Tensor, " n"]:
    """Return the negative logarithm of the highest probability (Hendrycks and Gimpel 2017, arXiv:1610.02136).

    It orders images as the probability does, but is also exact where that is close to 1.
    """
    weights = log_weights(logits / temperature, link)
    return weights.logsumexp(1) - weights.amax(1)


def energy(logits: Float32[Tensor, "n c"], temperature: float = 1.0) -> Float32[Tensor, " n"]:
    """Return the free energy (Liu et al. 2020, arXiv:2010.03759)."""
    return -temperature * (logits / temperature).logsumexp(1)
