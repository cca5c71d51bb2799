"""A score that was chosen, and its threshold on the validation images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from unfreeze.contract.arrays import Float32, Int64
from unfreeze.contract.model.ood import BASELINE, Method, OutOfDistribution
from unfreeze.tune.evaluation.evaluate import Evaluation
from unfreeze.tune.ood.comparison import Comparison
from unfreeze.tune.ood.gaussian import Gaussians
from unfreeze.tune.ood.score import Score
from unfreeze.tune.ood.threshold import Threshold, threshold_of

SCORE_PREFIX = "unfreeze_ood."  # of its tensors beside the weights


@dataclass(frozen=True, kw_only=True)
class ChosenScore:
    """Which score a run uses.

    Args:
        comparison: that it was chosen by; None with too few classes.
        gaussians: of the training images' features; None if the score needs none.
    """

    comparison: Comparison | None = None
    gaussians: Gaussians | None = None

    @property
    def method(self) -> Method:
        """The chosen method."""
        return BASELINE if self.comparison is None else self.comparison.best

    def state(self) -> dict[str, Any]:
        """Return what `from_state` restores, of tensors and Python's own types."""
        return {
            "comparison": None if self.comparison is None else asdict(self.comparison),
            "gaussians": None if self.gaussians is None else gaussians_state(self.gaussians),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Restore it from the state of an interrupted run."""
        comparison, gaussians = state["comparison"], state["gaussians"]
        return cls(
            comparison=None if comparison is None else Comparison(**comparison),
            gaussians=None if gaussians is None else Gaussians(**gaussians),
        )


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A score with its threshold.

    Args:
        score: of images.
        threshold: of the score.
        comparison: that the score was chosen by; None with too few classes.
        scored: numbers of the validation images that were scored.
        scores: of these.
    """

    score: Score
    threshold: Threshold
    comparison: Comparison | None
    scored: Int64[np.ndarray, " m"]
    scores: Float32[np.ndarray, " m"]

    @property
    def accepted(self) -> Int64[np.ndarray, " k"]:
        """Numbers of the validation images that are not out of distribution."""
        found: np.ndarray = self.scored[self.scores <= self.threshold.value]
        return found

    def facts(self) -> OutOfDistribution:
        """Describe it for `run.json` and for the manifest."""
        threshold, found = self.threshold, self.comparison
        return OutOfDistribution(
            method=self.score.method,
            threshold=threshold.value,
            false_alarms=threshold.requested,
            false_alarms_low=threshold.low,
            false_alarms_high=threshold.high,
            images=threshold.images,
            auroc=None if found is None else found.aurocs[self.score.method],
            baseline_auroc=None if found is None else found.aurocs[BASELINE],
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the score, to be saved with the weights."""
        gaussians = self.score.gaussians
        found = {} if gaussians is None else gaussians_state(gaussians)
        return {SCORE_PREFIX + name: tensor for name, tensor in found.items()}

    def metrics(self) -> dict[str, Any]:
        """Describe it for `metrics.json`."""
        found = self.comparison
        choice = f"fewer than 3 classes with 4 images or more: no score was compared with {BASELINE}, which is used"
        return {
            "method": self.score.method,
            "comparison": None if found is None else asdict(found),
            "choice": choice if found is None else found.message,
            "threshold": self.threshold.value,
            "requested_false_alarms": self.threshold.requested,
            "expected_false_alarms": self.threshold.expected,
            "false_alarms_interval": [self.threshold.low, self.threshold.high],
            "images": self.threshold.images,
            "message": self.threshold.message,
        }


def fit_detector(
    chosen: ChosenScore, evaluation: Evaluation, featured: Evaluation, temperature: float, false_alarms: float
) -> Detector:
    """Score the validation images and choose the threshold.

    Args:
        chosen: the score.
        evaluation: of the network on the validation images.
        featured: of the same images, with the features of some of them.
        temperature: that calibrates the probabilities.
        false_alarms: wanted share of false alarms, above 0 and below 1.
    """
    score = Score(method=chosen.method, temperature=temperature, link=evaluation.link, gaussians=chosen.gaussians)
    scored = np.arange(len(evaluation.logits)) if chosen.gaussians is None else featured.featured
    scores = score.of(evaluation.logits[torch.from_numpy(scored)], featured.features).numpy()
    return Detector(
        score=score,
        threshold=threshold_of(scores, false_alarms),
        comparison=chosen.comparison,
        scored=scored,
        scores=scores,
    )


def gaussians_state(gaussians: Gaussians) -> dict[str, Tensor]:
    """Return the tensors by name."""
    return {field.name: getattr(gaussians, field.name) for field in fields(Gaussians)}
