"""The command `unfreeze predict`."""

import dataclasses
from collections.abc import Generator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators
from rich.table import Column, Table
from rich.text import Text

from unfreeze.commands.connection import ConnectionOptions
from unfreeze.commands.predict_job import JobParameters, run_job
from unfreeze.console import REMARKS, RESULTS, TerminalReporter, print_json
from unfreeze.contract.answers import Answer
from unfreeze.contract.errors import ImageError, OptionsError, UnfreezeError
from unfreeze.contract.folders import LeftOut, list_files, summarize_ignored
from unfreeze.contract.prediction import MOST_LABELS
from unfreeze.contract.reporting import Silent
from unfreeze.prediction_csv import PredictionResult, write_csv
from unfreeze.serve.runtimes.registry import RuntimeName, runtime_summaries

if TYPE_CHECKING:
    from unfreeze.serve.client.local import LocalClassifier

EXAMPLES = """Examples:

    unfreeze predict ant.jpg bee.png --server localhost:8001 --model insects
    unfreeze predict photographs/ --server localhost:8001 --csv labels.csv --top-k 1
    unfreeze predict photographs/ --server models.example.org:8001 --tls --token-file token.txt --csv labels.csv
    unfreeze predict ant.jpg --server unix:///run/unfreeze/grpc.sock
    unfreeze predict ant.jpg --file models/insects/1/model.onnx --top-k 1 --json
    unfreeze predict photographs/ --file models/insects --out predictions.parquet
    unfreeze predict "s3://bucket/shards/{000..127}.tar" --file models/insects --out predictions.parquet --ray auto
"""
_BATCH_SIZE = 32  # for local models; a progress bar is shown for more images than this
_MAX_ATTEMPTS = 100  # several minutes, so that an overloaded server does not abort a long run


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerOptions(ConnectionOptions):
    """A model of a server, and the connection to it.

    Args:
        model: name of the model; optional if the server has only one.
    """

    model: str = ""


_DEFAULTS = ServerOptions()
_JOB = JobParameters()


def predict(
    images: Annotated[list[str], Parameter(negative="")],
    *,
    server: str | None = None,
    file: Path | None = None,
    options: Annotated[ServerOptions, Parameter(name="*")] = _DEFAULTS,
    top_k: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=MOST_LABELS))] = 5,
    json: Annotated[bool, Parameter(negative="")] = False,
    csv: Path | None = None,
    device: Annotated[
        RuntimeName, Parameter(help=f"with --file, what executes the model: {runtime_summaries()}.")
    ] = "cpu",
    job: Annotated[JobParameters, Parameter(name="*")] = _JOB,
) -> None:
    """Classify images with a server or with a local model file.

    Images that cannot be classified are reported on standard error, and the exit code is then 1; all other images are
    classified. Results below the confidence threshold of a model that was tuned with --abstain-precision are marked as
    unsure, images unlike those that a model was tuned on as out of distribution.

    With --out, very many images are classified: see the section Many images.

    Args:
        images: image files, or folders of images. With --out, also lists, Parquet files and tar files, as paths, URLs
            or patterns.
        server: HOST:PORT of a server, or unix:///PATH of its Unix socket.
        file: a `model.onnx`, the folder of a version, or the folder of a model, for its newest version, instead of a
            server.
        options: connection to the server.
        top_k: number of labels for each image.
        json: print a JSON list to standard output; "unsure" and "out_of_distribution" are null if the model has no
            such threshold.
        csv: write path, label, score, further labels and scores, unsure, out_of_distribution, ood_score and error to
            this file; the file is written completely or not at all.
        device: what executes the model of --file.
        job: options of a job.
    """
    if server is not None and device != "cpu":
        raise OptionsError("--device is for --file; a server has its own device")
    if job.is_given:
        if server is not None or file is None or csv is not None or json:
            raise OptionsError("--out needs --file model.onnx, and neither --server, --csv nor --json")
        run_job(images, file, device, top_k, job)
    else:
        _predict([Path(image) for image in images], server, file, options, device, top_k, csv, json=json)


def _predict(
    images: list[Path],
    server: str | None,
    file: Path | None,
    options: ServerOptions,
    device: RuntimeName,
    top_k: int,
    csv: Path | None,
    *,
    json: bool,
) -> None:
    """Classify images that are listed in memory."""
    paths = [path for path in _expand_folders(images) if path != csv]
    if server is not None and file is None:
        results = _with_server(paths, server, options, top_k)
    elif file is not None and server is None:
        results = _with_file(paths, file, device, top_k)
    else:
        raise OptionsError("give either --server HOST:PORT (or unix:///PATH) or --file model.onnx")
    to_print, failed = [], 0
    with (
        TerminalReporter() if len(paths) > _BATCH_SIZE else nullcontext(Silent()) as reporter,
        closing(results if csv is None else write_csv(csv, results)) as rows,
    ):
        advance = reporter.track("images", len(paths))
        for result in rows:
            advance(1)
            failed += result.error is not None
            if csv is None and result.error is not None:
                REMARKS.print(result.error, markup=False)
            if csv is None or json:
                to_print.append(result)
    if json:
        print_json([_document(result) for result in to_print])
    elif csv is None:
        RESULTS.print(_table(to_print))
    if failed:
        details = "" if csv is None else f"; see the column `error` of {csv}"
        raise ImageError(f"{failed:,} of {len(paths):,} images could not be classified{details}")


def _document(result: PredictionResult) -> dict[str, object]:
    return {
        "image": result.name,
        "predictions": [dataclasses.asdict(one) for one in result.predictions],
        "unsure": result.unsure,
        "out_of_distribution": result.out_of_distribution,
        "ood_score": result.ood_score,
        "error": result.error,
    }


def _table(results: list[PredictionResult]) -> Table:
    table = Table(Column("image", overflow="fold"), "label", "score")
    for result in results:
        for rank, one in enumerate(result.predictions):
            mark = _mark(result) if not rank else ""
            table.add_row(Text("" if rank else result.name), Text(one.label), f"{one.score:.4f}{mark}")
    return table


def _mark(result: PredictionResult) -> str:
    return f"{' unsure' if result.unsure else ''}{' out of distribution' if result.out_of_distribution else ''}"


def _expand_folders(images: list[Path]) -> list[Path | LeftOut]:
    paths: list[Path | LeftOut] = []
    for path in images:
        if not path.is_dir():
            paths.append(path)
            continue
        listing = list_files(path)
        paths += listing.entries
        if ignored := summarize_ignored(listing.ignored):
            REMARKS.print(f"{path}: {ignored}", markup=False)
    if not paths:
        raise UnfreezeError("no images to classify: the given folders are empty")
    return paths


def _with_server(
    paths: list[Path | LeftOut], server: str, options: ServerOptions, top_k: int
) -> Generator[PredictionResult, None, None]:
    from unfreeze.serve.client.blocking import Client

    with Client(server, max_attempts=_MAX_ATTEMPTS, **options.client_options()) as client:
        for result in client.classify(paths, model=options.model, top_k=top_k):
            yield PredictionResult(
                result.name,
                result.predictions,
                result.unsure,
                result.error,
                result.ood_score,
                result.out_of_distribution,
            )


def _with_file(
    paths: list[Path | LeftOut], file: Path, device: RuntimeName, top_k: int
) -> Generator[PredictionResult, None, None]:
    from unfreeze.contract.model.repository import find_model
    from unfreeze.serve.client.local import LocalClassifier

    with LocalClassifier(find_model(file), device=device) as classifier:
        for start in range(0, len(paths), _BATCH_SIZE):
            batch = paths[start : start + _BATCH_SIZE]
            files = [path for path in batch if isinstance(path, Path)]
            if len(files) < len(batch):
                yield from (_classify_one(path, classifier, top_k) for path in batch)
                continue
            try:
                found = classifier.answers(files, top_k=top_k)
            except ImageError:  # classify one by one, to find every image that fails
                yield from (_classify_one(path, classifier, top_k) for path in batch)
            else:
                for path, answer in zip(files, found, strict=True):
                    yield _result(path, answer)


def _classify_one(path: Path | LeftOut, classifier: "LocalClassifier", top_k: int) -> PredictionResult:
    if isinstance(path, LeftOut):
        return PredictionResult(str(path.path), (), None, path.message)
    try:
        (answer,) = classifier.answers([path], top_k=top_k)
    except ImageError as error:
        return PredictionResult(str(path), (), None, str(error))
    return _result(path, answer)


def _result(path: Path, answer: Answer) -> PredictionResult:
    return PredictionResult(
        str(path), answer.predictions, answer.unsure, None, answer.ood_score, answer.out_of_distribution
    )
