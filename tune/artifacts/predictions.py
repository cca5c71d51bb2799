"""`predictions.csv`: what the tuned network predicts for every validation and test image."""

from pathlib import Path

from unfreeze.contract.files import replace_csv
from unfreeze.tune.artifacts.results import TuningResult
from unfreeze.tune.data.dataset import Dataset, stored_path
from unfreeze.tune.data.images import TEST, VAL

PREDICTIONS_FILE = "predictions.csv"
_COLUMNS = ("path", "split", "label", "predicted", "confidence", "uncalibrated_confidence", "label_probability")


def write_predictions(folder: Path, result: TuningResult, dataset: Dataset) -> None:
    """Write the file, with one line for each image.

    Args:
        folder: the run's folder.
        result: of the run.
        dataset: the dataset of the images.
    """
    lines: list[tuple[str, ...]] = [_COLUMNS]
    for split, evaluation in ((VAL, result.evaluation), (TEST, result.test)):
        if evaluation is None:
            continue
        calibrated, before = evaluation.probabilities(result.temperature), evaluation.probabilities(1.0)
        for row, (image, best) in enumerate(zip(evaluation.images, calibrated.argmax(axis=1).tolist(), strict=True)):
            names = stored_path(image.path, dataset.root), split, dataset.labels[image.label], dataset.labels[best]
            shares = calibrated[row, best], before[row].max(), calibrated[row, image.label]
            lines.append((*names, *(f"{share:.4f}" for share in shares)))
    replace_csv(folder / PREDICTIONS_FILE, lines)
