"""The demo's steps: write images, tune, export, serve, and compare the server with the model in this process."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from unfreeze.contract.reporting import Reporter
from unfreeze.demo.dataset import DemoDataset
from unfreeze.demo.digits import DIGITS
from unfreeze.demo.options import DemoOptions
from unfreeze.demo.serving import requests_per_second, serving
from unfreeze.demo.wallpaper.dataset import WALLPAPER
from unfreeze.export.run import Published, export_model
from unfreeze.serve.client.blocking import Client
from unfreeze.serve.client.local import LocalClassifier
from unfreeze.tune.run import fine_tune

DATASETS = {dataset.name: dataset for dataset in (DIGITS, WALLPAPER)}


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo measured.

    Args:
        dataset: Name of the data set.
        metrics: The metrics of tuning, as in `metrics.json`.
        published: The exported model.
        compared: Number of validation images sent to the server.
        same_labels: How many of them got the same top-1 label from the server as from the model in this process.
        largest_score_difference: Largest difference between the two top-1 scores of an image.
        requests_per_second: Throughput of requests with one encoded image, from 8 concurrent clients.
        seconds: Duration of all steps.
    """

    dataset: str
    metrics: dict[str, Any]
    published: Published
    compared: int
    same_labels: int
    largest_score_difference: float
    requests_per_second: float
    seconds: float


def run_demo(dataset: DemoDataset, out: Path, options: DemoOptions, reporter: Reporter) -> DemoResult:
    """Write images, tune the built-in backbone, export it, serve it and query the server over gRPC.

    Args:
        dataset: The data set, one of `DATASETS`.
        out: Folder for the images (`images`), the run (`run`) and the model repository (`models`).
        options: Size of the demo.
        reporter: Shows progress.

    Raises:
        UnfreezeError: A step failed.
    """
    started = time.monotonic()
    data = out / "images"
    dataset.write(data, options, reporter)
    metrics = fine_tune(data, out / "run", dataset.tune_options(options), reporter, overwrite=True)
    published = export_model(out / "run", out / "models", dataset.name, reporter=reporter)
    images = [path.read_bytes() for path in sorted((data / "val").rglob("*.*"))]
    with serving(out / "models", "--log-level", "warning") as target:
        reporter.info(f"serving on {target}; sending all {len(images)} validation images")
        comparison = _compare(target, published, images)
        throughput = requests_per_second(target, dataset.name, images, options.seconds)
    return DemoResult(
        dataset=dataset.name,
        metrics=metrics,
        published=published,
        compared=len(images),
        same_labels=comparison.same_labels,
        largest_score_difference=comparison.largest_score_difference,
        requests_per_second=throughput,
        seconds=time.monotonic() - started,
    )


class _Comparison(NamedTuple):
    same_labels: int
    largest_score_difference: float


def _compare(target: str, published: Published, images: Sequence[bytes]) -> _Comparison:
    """Compare the server's top-1 predictions with those of the same file in this process."""
    with Client(target) as client, LocalClassifier(published.path) as local:
        served = client.predict(images, model=published.name, top_k=1)
        in_process = local.predict(images, top_k=1)
    pairs = [(one[0], other[0]) for one, other in zip(served, in_process, strict=True)]
    return _Comparison(
        same_labels=sum(one.label == other.label for one, other in pairs),
        largest_score_difference=max(abs(one.score - other.score) for one, other in pairs),
    )
