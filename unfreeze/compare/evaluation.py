"""Evaluate a backbone by cross-validation: the probe on a part of the images, and with the tail on all."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfreeze.compare.context import CompareContext
from unfreeze.compare.halving import Evaluated
from unfreeze.compare.loaded import LoadedBackbone
from unfreeze.compare.scores import Scores
from unfreeze.contract.errors import DataError
from unfreeze.tune.backbones.network import HEAD
from unfreeze.tune.data.folds import Fold
from unfreeze.tune.data.images import LabeledImage
from unfreeze.tune.data.views import Views
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.features.extract import ExtractedFeatures, extract_features
from unfreeze.tune.linear.probe import Probe, fit_probe


@dataclass(frozen=True, kw_only=True)
class SubsetEvaluator:
    """Cross-validates the probe of backbones on the first images, and keeps their features for larger subsets.

    Args:
        context: state of the comparison.
    """

    context: CompareContext
    _features: dict[str, Tensor] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)

    def evaluate(self, backbone: LoadedBackbone, count: int) -> Evaluated:
        """Evaluate a backbone on the first images.

        Raises:
            DataError: an image cannot be decoded.
            WeightsError: features are NaN or infinite.
        """
        context, label = self.context, backbone.choice.label
        key = context.key(backbone, images=count)
        if (stored := context.stored.load("probe", key)) is not None:
            return Evaluated(scores=restored(context, stored, count), seconds=stored["seconds"])
        features = self._extend(backbone, count)
        scores = cross_validate(context, features, count)
        evaluated = Evaluated(scores=scores, seconds=self._seconds[label] / count)
        context.stored.store("probe", key, {"correct": _bits(scores), "seconds": evaluated.seconds})
        return evaluated

    def _extend(self, backbone: LoadedBackbone, count: int) -> Tensor:
        """Run the backbone over the images that it has not seen yet."""
        label = backbone.choice.label
        known = self._features.get(label)
        start, images = 0 if known is None else len(known), self.context.sample.images
        warm_up(backbone, self.context.precision)
        started = time.perf_counter()
        new = extract(self.context, backbone, images[start:count], HEAD).features
        self._seconds[label] = self._seconds.get(label, 0.0) + time.perf_counter() - started
        self._features[label] = new if known is None else torch.cat([known, new])
        return self._features[label]


def warm_up(backbone: LoadedBackbone, precision: Precision) -> None:
    """Run a backbone over one batch of black images, so that what happens only once does not count as its speed."""
    network = backbone.network
    pixels = torch.zeros(precision.trunk_batch, *network.image_shape, dtype=torch.uint8)
    with torch.inference_mode(), precision.autocast():
        network(precision.to_device(pixels))


def extract(
    context: CompareContext, backbone: LoadedBackbone, images: Sequence[LabeledImage], cut: str
) -> ExtractedFeatures:
    """Run a backbone over some images and cache the activations at a cut.

    Raises:
        DataError: an image cannot be decoded.
        WeightsError: features are NaN or infinite.
    """
    network, tuning = backbone.network, context.tuning
    label = f"{backbone.choice.label}: running it over {len(images)} images"
    views = Views(spec=backbone.pretrained.spec, count=tuning.views, seed=tuning.seed, flip=tuning.flip == "yes")
    extracted = extract_features(
        network,
        network.position(cut),
        images,
        views,
        context.precision,
        context.placement,
        context.reporter.track(label, len(images)),
        stored=context.rows(backbone),
    )
    if extracted.skipped:
        raise DataError(f"{extracted.skipped[0].path}: {extracted.skipped[0].reason}")
    return extracted


def cross_validate(context: CompareContext, features: Tensor, count: int) -> Scores:
    """Fit the probe on each fold's training images and classify its held-out images.

    Args:
        context: state of the comparison.
        features: of the first images, float32 [N, V, F].
        count: N.
    """
    labels = torch.from_numpy(context.sample.labels[:count])
    strength = fit(context, features, labels).inverse_regularization
    correct = []
    for fold in context.sample.folds(count):
        probe = fit(context, features[fold.train], labels[fold.train], strength)
        correct.append((probe.classify(features[fold.held_out, 0]).argmax(1) == labels[fold.held_out]).numpy())
    return _scores(context, np.concatenate(correct), context.sample.folds(count))


def fit(context: CompareContext, features: Tensor, labels: Tensor, strength: float | None = None) -> Probe:
    """Fit the probe, with a given regularization or one that is chosen by cross-validation."""
    return fit_probe(
        features,
        labels,
        seed=context.tuning.seed,
        balanced=context.tuning.class_weights == "balanced",
        inverse_regularization=strength,
    )


def restored(context: CompareContext, stored: Mapping[str, Any], count: int) -> Scores:
    """Restore the scores on the first images from a stored result."""
    correct = np.array([bit == "1" for bit in stored["correct"]])
    return _scores(context, correct, context.sample.folds(count))


def scores_of(context: CompareContext, correct: np.ndarray) -> Scores:
    """Return the scores on the folds of all images, of which the last ones may be missing."""
    return _scores(context, correct, context.sample.folds(len(context.sample.images)))


def stored_scores(scores: Scores) -> dict[str, str]:
    """Return scores as `restored` reads them."""
    return {"correct": _bits(scores)}


def _scores(context: CompareContext, correct: np.ndarray, folds: Sequence[Fold]) -> Scores:
    held_out = np.concatenate([fold.held_out for fold in folds])[: len(correct)]
    return Scores(labels=context.sample.labels[held_out], correct=correct, metric=context.metric)


def _bits(scores: Scores) -> str:
    return "".join("1" if one else "0" for one in scores.correct)
