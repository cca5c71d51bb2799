"""`unfreeze predict`."""

import dataclasses
from pathlib import Path
from typing import Annotated, NamedTuple

from cyclopts import Parameter, validators
from rich.table import Column, Table
from rich.text import Text

from contract.errors import OptionsError, UnfreezeError
from contract.files import visible_files
from contract.prediction import MOST_LABELS, Prediction
from unfreeze.console import RESULTS, print_json

EXAMPLES = """Examples:

    unfreeze predict ant.jpg bee.png --server localhost:8001 --model insects
    unfreeze predict ant.jpg --file models/insects/1/model.onnx --top 1 --json
"""


def predict(
    pictures: Annotated[list[Path], Parameter(negative="")],
    *,
    server: str | None = None,
    model: str = "",
    file: Path | None = None,
    top: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=MOST_LABELS))] = 5,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Name the most probable labels of pictures, by a server or by a model file in this process.

    A model that was tuned for a precision marks what it is unsure of. The file says so; a server does not tell.

    Args:
        pictures: files, or folders whose files are taken.
        server: HOST:PORT of a server.
        model: name of the model on the server; not needed where it has only one.
        file: a `model.onnx`, instead of a server.
        top: how many labels to name.
        json: print one JSON list on standard output; "unsure" is null where a server answered.
    """
    if (server is None) == (file is None):
        raise OptionsError("say either --server HOST:PORT or --file model.onnx")
    paths = _files(pictures)
    answers = _ask_server(paths, server, model, top) if server is not None else _ask_file(paths, file, top)
    if json:
        print_json(
            [
                {
                    "picture": str(path),
                    "predictions": [dataclasses.asdict(one) for one in answer.predictions],
                    "unsure": answer.unsure,
                }
                for path, answer in zip(paths, answers, strict=True)
            ]
        )
    else:
        RESULTS.print(_table(paths, answers))


class _Answer(NamedTuple):
    predictions: tuple[Prediction, ...]
    unsure: bool | None  # None: nobody told


def _table(paths: list[Path], answers: list[_Answer]) -> Table:
    table = Table(Column("picture", overflow="fold"), "label", "score")
    for path, answer in zip(paths, answers, strict=True):
        for rank, one in enumerate(answer.predictions):
            mark = " unsure" if answer.unsure and not rank else ""
            table.add_row(Text("" if rank else str(path)), Text(one.label), f"{one.score:.4f}{mark}")
    return table


def _files(pictures: list[Path]) -> list[Path]:
    paths = [entry for path in pictures for entry in (visible_files(path) if path.is_dir() else [path])]
    if not paths:
        raise UnfreezeError("there is no picture to predict: the folders are empty")
    return paths


def _ask_server(paths: list[Path], server: str, model: str, top: int) -> list[_Answer]:
    from serve.client import Client

    with Client(server) as client:
        return [_Answer(found, None) for found in client.predict(paths, model=model, top=top)]


def _ask_file(paths: list[Path], file: Path, top: int) -> list[_Answer]:
    from serve.local import LocalClassifier

    with LocalClassifier(file) as classifier:
        return [_Answer(found, classifier.is_unsure(found)) for found in classifier.predict(paths, top=top)]
