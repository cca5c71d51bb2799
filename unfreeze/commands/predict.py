"""`unfreeze predict`."""

import dataclasses
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators
from rich.table import Column, Table
from rich.text import Text

from unfreeze.console import REMARKS, RESULTS, TerminalReporter, print_json
from unfreeze.contract.errors import ImageError, OptionsError, UnfreezeError
from unfreeze.contract.files import visible_files
from unfreeze.contract.prediction import MOST_LABELS
from unfreeze.contract.reporting import Silent
from unfreeze.predicted import Predicted, written_to

if TYPE_CHECKING:
    from unfreeze.serve.client.local import LocalClassifier

EXAMPLES = """Examples:

    unfreeze predict ant.jpg bee.png --server localhost:8001 --model insects
    unfreeze predict photographs/ --server localhost:8001 --csv labels.csv --top 1
    unfreeze predict photographs/ --server models.example.org:8001 --tls --token-file token.txt --csv labels.csv
    unfreeze predict ant.jpg --file models/insects/1/model.onnx --top 1 --json
"""
_AT_ONCE = 32  # images in this process; and for more than that there is a bar
_ATTEMPTS = 100  # some minutes: a busy server must not cost what a long folder has so far


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How to ask a server.

    Args:
        model: name of the model on the server; not needed where it has only one.
        timeout_s: for each call, in seconds.
        token_file: a file whose first line is sent as the token.
        tls: encrypt, and trust this machine's root certificates; --tls-ca and --tls-cert imply it.
        tls_ca: PEM file of root certificates to trust in their place.
        tls_cert: PEM file of this client's certificate, for servers that ask for one.
        tls_key: PEM file of its key.
        insecure: send the token to another machine without TLS, where something else encrypts.
    """

    model: str = ""
    timeout_s: float = 30.0
    token_file: Path | None = None
    tls: Annotated[bool, Parameter(negative="")] = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure: Annotated[bool, Parameter(negative="")] = False


_BY_DEFAULT = ServerOptions()


def predict(
    images: Annotated[list[Path], Parameter(negative="")],
    *,
    server: str | None = None,
    file: Path | None = None,
    options: Annotated[ServerOptions, Parameter(name="*")] = _BY_DEFAULT,
    top: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=MOST_LABELS))] = 5,
    json: Annotated[bool, Parameter(negative="")] = False,
    csv: Path | None = None,
) -> None:
    """Name the most probable labels of images, by a server or by a model file in this process.

    An image that cannot be used is named on standard error and harms no other; the exit code is then 1. A model that
    was tuned for a precision marks what it is unsure of. The file says so; a server does not tell.

    Args:
        images: files, or folders whose files are taken.
        server: HOST:PORT of a server.
        file: a `model.onnx`, instead of a server.
        options: how to ask the server.
        top: how many labels to name.
        json: print one JSON list on standard output; "unsure" is null where a server answered.
        csv: write path, label, score, further labels and scores, and error to this file, whole or not at all.
    """
    if (server is None) == (file is None):
        raise OptionsError("say either --server HOST:PORT or --file model.onnx")
    paths = [path for path in _files(images) if path != csv]
    asked = _ask_server(paths, server, options, top) if server is not None else _ask_file(paths, file, top)
    answers, failed = [], 0
    with (
        TerminalReporter() if len(paths) > _AT_ONCE else nullcontext(Silent()) as reporter,
        closing(asked if csv is None else written_to(csv, asked)) as rows,
    ):
        advance = reporter.track("images", len(paths))
        for answer in rows:
            advance(1)
            failed += answer.error is not None
            if csv is None and answer.error is not None:
                REMARKS.print(answer.error, markup=False)
            if csv is None or json:
                answers.append(answer)
    if json:
        print_json([_document(answer) for answer in answers])
    elif csv is None:
        RESULTS.print(_table(answers))
    if failed:
        where = "" if csv is None else f"; {csv} says why"
        raise ImageError(f"{failed:,} of {len(paths):,} images could not be used{where}")


def _document(answer: Predicted) -> dict[str, object]:
    return {
        "image": answer.name,
        "predictions": [dataclasses.asdict(one) for one in answer.predictions],
        "unsure": answer.unsure,
        "error": answer.error,
    }


def _table(answers: list[Predicted]) -> Table:
    table = Table(Column("image", overflow="fold"), "label", "score")
    for answer in answers:
        for rank, one in enumerate(answer.predictions):
            mark = " unsure" if answer.unsure and not rank else ""
            table.add_row(Text("" if rank else answer.name), Text(one.label), f"{one.score:.4f}{mark}")
    return table


def _files(images: list[Path]) -> list[Path]:
    paths = [entry for path in images for entry in (visible_files(path) if path.is_dir() else [path])]
    if not paths:
        raise UnfreezeError("there is no image to predict: the folders are empty")
    return paths


def _ask_server(paths: list[Path], server: str, options: ServerOptions, top: int) -> Iterator[Predicted]:
    from unfreeze.serve.client.blocking import Client
    from unfreeze.serve.security.auth import read_tokens

    told = dataclasses.asdict(options)
    model, token_file = told.pop("model"), told.pop("token_file")
    token = None if token_file is None else read_tokens(token_file)[0]
    with Client(server, token=token, attempts=_ATTEMPTS, **told) as client:
        for answer in client.classify(paths, model=model, top=top):
            yield Predicted(answer.name, answer.predictions, None, answer.error)


def _ask_file(paths: list[Path], file: Path, top: int) -> Iterator[Predicted]:
    from unfreeze.serve.client.local import LocalClassifier

    with LocalClassifier(file) as classifier:
        for start in range(0, len(paths), _AT_ONCE):
            some = paths[start : start + _AT_ONCE]
            try:
                found = classifier.predict(some, top=top)
            except ImageError:  # one of them cannot be used: which, and are there more?
                yield from (_ask_one(path, classifier, top) for path in some)
            else:
                for path, predictions in zip(some, found, strict=True):
                    yield Predicted(str(path), predictions, classifier.is_unsure(predictions), None)


def _ask_one(path: Path, classifier: "LocalClassifier", top: int) -> Predicted:
    try:
        (found,) = classifier.predict([path], top=top)
    except ImageError as error:
        return Predicted(str(path), (), None, str(error))
    return Predicted(str(path), found, classifier.is_unsure(found), None)
