"""End to end on a folder of photographs: accuracy, time, and agreement of torch, server and local file.

python -m bench.photographs DATA --weights squeezenet1_0.pth
"""

import platform
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import cyclopts
import numpy as np
import torch
from rich.table import Table

from unfreeze.console import RESULTS, TerminalReporter, print_json
from unfreeze.demo.serving import requests_per_second, serving
from unfreeze.export.run import export_model
from unfreeze.serve.client.blocking import Client
from unfreeze.serve.client.local import LocalClassifier
from unfreeze.tune.artifacts.checkpoint import load_run
from unfreeze.tune.evaluation.evaluate import evaluate
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune


def main(
    data: Path,
    *,
    weights: str,
    backbone: str = "squeezenet1_0",
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Tune, export, serve, and classify every validation image in three ways.

    Args:
        data: folder of labeled images.
        weights: pretrained weights, as for `unfreeze tune`.
        backbone: torchvision's name of the network.
        json: print JSON instead of a table.
    """
    with tempfile.TemporaryDirectory() as folder, TerminalReporter() as reporter:
        run, models = Path(folder) / "run", Path(folder) / "models"
        metrics = fine_tune(data, run, TuneOptions(backbone=backbone, weights=weights, store_gb=0.0), reporter)
        published = export_model(run, models, "model", reporter=reporter)
        files, expected = _torch(run)
        encoded = [file.read_bytes() for file in files]
        with LocalClassifier(published.path) as local:
            inside = local.probabilities(encoded)
        with serving(models) as target:
            with Client(target) as client:
                answers = client.predict(encoded, top_k=len(metrics["labels"]))
            rate = requests_per_second(target, "model", encoded, 10.0)
    served = np.array([[one.score for one in sorted(answer, key=lambda one: one.index)] for answer in answers])
    figures = {
        "val_accuracy": metrics["val_accuracy"],
        "cut": metrics["cut"],
        "tune_seconds": metrics["seconds"],
        "images": len(files),
        "same_label_served": int((served.argmax(1) == expected.argmax(1)).sum()),
        "same_label_in_process": int((inside.argmax(1) == expected.argmax(1)).sum()),
        "largest_difference_served": float(np.abs(served - expected).max()),
        "largest_difference_in_process": float(np.abs(inside - expected).max()),
        "requests_per_second": round(rate, 1),
        "torch": version("torch"),
        "onnxruntime": version("onnxruntime"),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    if json:
        print_json(figures)
        return
    table = Table("figure", "value", title=f"{backbone} on {data.name}")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:.3g}" if isinstance(value, float) else str(value))
    RESULTS.print(table)


def _torch(run: Path) -> tuple[list[Path], np.ndarray]:
    """Return the validation files and torch's probabilities for them."""
    network, facts = load_run(run)
    evaluation = evaluate(network, facts.images(), facts.preprocess, torch.device("cpu"))
    return [image.path for image in evaluation.images], evaluation.probabilities(facts.temperature)


if __name__ == "__main__":
    cyclopts.run(main)
