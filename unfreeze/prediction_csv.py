"""The results of `unfreeze predict`, and their CSV file."""

import csv
import io
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import NamedTuple

from unfreeze.contract.files import replacing
from unfreeze.contract.prediction import Prediction


class PredictionResult(NamedTuple):
    """The result for one image.

    Args:
        name: path of the image.
        predictions: ordered by score, the highest first; empty if there is an error.
        unsure: whether the top score is below the model's confidence threshold, or the image is out of distribution;
            None if the model has no such threshold, or there is an error.
        error: why the image cannot be classified; None if it was classified.
        ood_score: how far it is from the training images; None if the model has no such score.
        out_of_distribution: whether that is above the model's threshold; None as before.
    """

    name: str
    predictions: tuple[Prediction, ...]
    unsure: bool | None
    error: str | None
    ood_score: float | None = None
    out_of_distribution: bool | None = None


def write_csv(path: Path, results: Iterable[PredictionResult]) -> Generator[PredictionResult, None, None]:
    """Write results to a CSV file while passing them on.

    The columns are path, label, score, label2, score2 and so on, unsure and out_of_distribution (true, false or empty),
    ood_score, error. The file appears under its name once it is complete; if the iteration is interrupted, an existing
    file remains unchanged.

    Args:
        path: path of the file.
        results: results to write, consumed lazily.

    Yields:
        Each result, after it has been written or buffered.
    """
    buffered: list[PredictionResult] = []  # errors before the first result with labels, which sets the column count
    label_count = 0
    with replacing(path) as file:
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        try:
            writer = csv.writer(text)
            for result in results:
                buffered.append(result)
                if not label_count and result.predictions:
                    label_count = len(result.predictions)
                    writer.writerow(_header(label_count))
                if label_count:
                    writer.writerows(_row(one, label_count) for one in buffered)
                    buffered.clear()
                yield result
            if not label_count:
                writer.writerows([_header(1), *(_row(one, 1) for one in buffered)])
        finally:
            text.detach()  # flushes the text, and leaves the file open for `replacing`


def _header(label_count: int) -> list[str]:
    numbers = ["", *map(str, range(2, label_count + 1))]
    labels = (f"{column}{number}" for number in numbers for column in ("label", "score"))
    return ["path", *labels, "unsure", "out_of_distribution", "ood_score", "error"]


def _row(result: PredictionResult, label_count: int) -> list[str]:
    cells = [text for one in result.predictions for text in (one.label, f"{one.score:.6f}")]
    flags = ["" if flag is None else str(flag).lower() for flag in (result.unsure, result.out_of_distribution)]
    score = "" if result.ood_score is None else f"{result.ood_score:.6g}"
    return [result.name, *cells, *[""] * (2 * label_count - len(cells)), *flags, score, result.error or ""]
