"""A model with a confidence threshold, made from one without."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import onnx

from unfreeze.contract.model.repository import ModelRepository
from unfreeze.contract.model.seal import UNSEALED
from unfreeze.export.graph import with_manifest
from unfreeze.serve.client.local import LocalClassifier


def publish_with_threshold(model: Path, repository: Path, name: str, images: Sequence[bytes | Path]) -> Path:
    """Publish a model with a threshold that the top scores of some images are below, and those of others are not.

    Args:
        model: path of a `model.onnx`.
        repository: where to publish it.
        name: of the published model.
        images: the threshold is in the middle of the widest gap between their top scores.

    Returns:
        The path of the published file.
    """
    with LocalClassifier(model) as local:
        manifest, scores = local.manifest, sorted(local.probabilities(images).max(axis=1).tolist())
    low, high = max(pairwise(scores), key=lambda pair: pair[1] - pair[0])
    changed = replace(manifest, sha256=UNSEALED, abstain_below=(low + high) / 2)
    published = ModelRepository(repository)
    version = published.publish(name, with_manifest(onnx.load(model), changed), changed)
    return published.path(name, version)
