"""What `unfreeze predict` found, and the CSV file of it."""

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from unfreeze.contract.files import replacing
from unfreeze.contract.prediction import Prediction


class Predicted(NamedTuple):
    """What is known of one image.

    Args:
        name: its path.
        predictions: the most probable first; empty where there is an error.
        unsure: whether the answer is to be taken for none; None where nobody told.
        error: why the image cannot be used, if it cannot.
    """

    name: str
    predictions: tuple[Prediction, ...]
    unsure: bool | None
    error: str | None


def written_to(path: Path, answers: Iterable[Predicted]) -> Iterator[Predicted]:
    """Pass answers on and write each to a CSV file, which stands there when all of them are through, and not before.

    Its columns are path, label, score, label2, score2 and so on, error.

    Args:
        path: of the file.
        answers: as they come.
    """
    early: list[Predicted] = []  # without labels, before it is known how many labels there are
    width = 0
    with replacing(path) as file:
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        try:
            writer = csv.writer(text)
            for answer in answers:
                early.append(answer)
                if not width and answer.predictions:
                    width = len(answer.predictions)
                    writer.writerow(_header(width))
                if width:
                    writer.writerows(_row(one, width) for one in early)
                    early.clear()
                yield answer
            if not width:
                writer.writerows([_header(1), *(_row(one, 1) for one in early)])
        finally:
            text.detach()  # writes what is left, and leaves the file open


def _header(width: int) -> list[str]:
    numbers = ["", *map(str, range(2, width + 1))]
    return ["path", *(f"{name}{number}" for number in numbers for name in ("label", "score")), "error"]


def _row(answer: Predicted, width: int) -> list[str]:
    found = [text for one in answer.predictions for text in (one.label, f"{one.score:.6f}")]
    return [answer.name, *found, *[""] * (2 * width - len(found)), answer.error or ""]
