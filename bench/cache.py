"""Time saved and memory used by the activation cache.

python -m bench.cache DATA --backbone squeezenet1_0 --weights squeezenet1_0.pth
python -m bench.cache --drawn 10000 --weights squeezenet1_0.pth --budgets 0 2 8 --views 1 --no-epochs

First, an epoch on cached activations against a naive one, which decodes the images and runs the frozen blocks again: at
each cut, alternating, medians. Then whole runs of `unfreeze tune` from the middle cut with increasing cache budgets:
seconds, what is cached, and peak resident memory above that of a run without a cache.
"""

import json as jsons
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated

import cyclopts
from rich.table import Table

from bench.images import TEXTURES, write_textures
from unfreeze.console import RESULTS, print_json
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.backbones.weights import load_pretrained
from unfreeze.tune.data.dataset import TRAIN, read_dataset
from unfreeze.tune.data.views import Views
from unfreeze.tune.device.heap import keep_freed_memory
from unfreeze.tune.device.precision import CPU, Precision, choose_precision
from unfreeze.tune.features.activations import ActivationSource
from unfreeze.tune.features.extract import extract_features
from unfreeze.tune.features.placement import CachePlacement
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.recipes.recipe import GENTLE_LEARNING_RATE
from unfreeze.tune.selection.request import middle_cut
from unfreeze.tune.training.optimization import Schedule
from unfreeze.tune.training.train import Training

_ROUNDS = 3
_RUN_COLUMNS = ("cache_gb", "seconds", "accuracy", "peak_mb", "above_the_first_mb")
_POLL_SECONDS = 0.05


def main(
    data: Path | None = None,
    *,
    drawn: int | None = None,
    backbone: str = "squeezenet1_0",
    weights: str = "none",
    budgets: Annotated[tuple[float, ...], cyclopts.Parameter(consume_multiple=True)] = (0.0, 0.1, 1.0, 8.0),
    views: int = 4,
    epochs: bool = True,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Time epochs at each cut of the second half, then whole runs from the middle cut and their memory.

    Args:
        data: folder of labeled images.
        drawn: draw about this many textures, three tenths of them for validation, instead of reading DATA.
        backbone: torchvision's name of the network.
        weights: pretrained weights, as for `unfreeze tune`.
        budgets: values of `--cache-gb`, in GB.
        views: of each image in the whole runs.
        epochs: time epochs.
        json: print JSON instead of tables.
    """
    options = TuneOptions(backbone=backbone, weights=weights, learning_rate=GENTLE_LEARNING_RATE, store_gb=0.0)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        images = data or _draw(Path(folder) / "drawn", drawn)
        timed = _epochs(images, options, Path(folder)) if epochs else []
        cut = middle_cut(load_pretrained(backbone, weights).network(backbone, 2, CPU))
        runs = [_measure_run(images, replace(options, cut=cut, views=views, cache_gb=budget)) for budget in budgets]
    for run in runs:
        run["above_the_first_mb"] = run["peak_mb"] - runs[0]["peak_mb"]
    if json:
        print_json({"epochs": timed, "runs": runs})
        return
    if timed:
        table = Table("cut", "cached epoch, s", "naive epoch, s", "share", title=f"{backbone} on {images.name}")
        for row in timed:
            table.add_row(str(row["cut"]), *(f"{row[name]:.2f}" for name in ("cached", "naive", "share")))
        RESULTS.print(table)
    table = Table("--cache-gb", "seconds", "accuracy", "peak MB", "above the first", title=f"whole runs from {cut}")
    for run in runs:
        table.add_row(*(f"{run[name]:g}" for name in _RUN_COLUMNS))
    RESULTS.print(table)


def _draw(folder: Path, count: int | None) -> Path:
    if count is None:
        raise SystemExit("give a folder of images, or --drawn with a number of images")
    write_textures(folder, count // TEXTURES)
    return folder


def _epochs(data: Path, options: TuneOptions, folder: Path) -> list[dict[str, str | float]]:
    precision = choose_precision(options.device)
    dataset = read_dataset(data, val_fraction=options.val_fraction, seed=options.seed)
    pretrained = load_pretrained(options.backbone, options.weights)
    network = pretrained.network(options.backbone, len(dataset.labels), precision.device)
    placement, blocks = CachePlacement(budget_bytes=round(options.cache_gb * 1e9), folder=folder), network.block_names
    first, rows = len(blocks) // 2, []
    extracted = extract_features(
        network, first, dataset.splits[TRAIN], Views(spec=pretrained.spec), precision, placement
    )
    for position in range(first, len(blocks)):
        sources = {
            "cached": extracted.source_at(position, placement),
            "naive": replace(extracted.streamed, position=position),
        }
        taken: dict[str, list[float]] = {name: [] for name in sources}
        for _ in range(_ROUNDS):
            for name, source in sources.items():
                taken[name].append(_epoch_seconds(network, source, position, options, precision))
        cached, naive = median(taken["cached"]), median(taken["naive"])
        rows.append({"cut": blocks[position], "cached": cached, "naive": naive, "share": cached / naive})
    return rows


def _epoch_seconds(
    network: Network, source: ActivationSource, position: int, options: TuneOptions, precision: Precision
) -> float:
    schedule = Schedule(epochs=1, learning_rate=1e-9, blocks=range(position, len(network.block_names)))
    training = Training(network=network, source=source, schedule=schedule, options=options, precision=precision)
    started = time.monotonic()
    training.run()
    return time.monotonic() - started


def _measure_run(data: Path, options: TuneOptions) -> dict[str, float]:
    """Tune in a separate process; return its time, accuracy and peak resident memory."""
    names = ("backbone", "weights", "cut", "learning_rate", "views", "cache_gb", "store_gb")
    flags = {name: getattr(options, name) for name in names}
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "unfreeze.command", "tune", str(data), "--out", f"{out}/run", *words]
        started, peak = time.monotonic(), 0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            # VmHWM is the child's own peak; the peak from `wait4` would start at the parent's memory before exec.
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max(peak, *map(int, re.findall(r"VmHWM:\s+(\d+) kB", status)), 0)
            time.sleep(_POLL_SECONDS)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed")
        seconds, metrics = time.monotonic() - started, jsons.loads(Path(out, "run", "metrics.json").read_bytes())
    run = {"cache_gb": options.cache_gb, "seconds": round(seconds, 1), "peak_mb": round(peak / 1000)}
    return run | {"accuracy": round(metrics["val_accuracy"], 4)}


if __name__ == "__main__":
    cyclopts.run(main)
