"""`embedding.npz`: where training and validation images lie in feature space."""

from pathlib import Path

import numpy as np
from torch import Tensor

from unfreeze.contract.files import replacing
from unfreeze.tune.artifacts.results import TuningResult
from unfreeze.tune.data.dataset import Dataset, stored_path
from unfreeze.tune.data.images import TRAIN, VAL
from unfreeze.tune.features.components import PrincipalComponents

EMBEDDING_FILE = "embedding.npz"
_LARGEST = 65_504.0  # in float16
_MOST = {TRAIN: 7000, VAL: 3000}


def choose_embedded(images: int, split: str = TRAIN) -> np.ndarray:
    """Choose the images of a split that are embedded: evenly spaced, at most 7,000 for training, 3,000 for validation.

    Args:
        images: of the split.
        split: "train" or "val".

    Returns:
        Their numbers, int64, increasing.
    """
    count = min(images, _MOST[split])
    return np.arange(count, dtype=np.int64) * images // max(1, count)


def write_embedding(
    folder: Path, dataset: Dataset, training: Tensor, components: PrincipalComponents, result: TuningResult
) -> None:
    """Write the file: `path`, `split` and `label` (text) and `components` (float16 [n, K]) of at most 10,000 images.

    Args:
        folder: the run's folder.
        dataset: of the images.
        training: components of the training images that `choose_embedded` chooses.
        components: map features of the pretrained network to components.
        result: of the run; it has the features of the validation images.
    """
    evaluation = result.probe_evaluation
    images = [(TRAIN, dataset.splits[TRAIN][row]) for row in choose_embedded(len(dataset.splits[TRAIN]))]
    images += [(VAL, evaluation.images[row]) for row in evaluation.featured]
    points = np.concatenate([training.numpy(), components.of(evaluation.features).numpy()])
    with replacing(folder / EMBEDDING_FILE) as file:
        np.savez_compressed(
            file,
            path=np.array([stored_path(image.path, dataset.root) for _, image in images]),
            split=np.array([split for split, _ in images]),
            label=np.array([dataset.labels[image.label] for _, image in images]),
            components=points.clip(-_LARGEST, _LARGEST).astype(np.float16),
        )
