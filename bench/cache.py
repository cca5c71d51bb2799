"""Time saved and memory used by the activation cache.

python -m bench.cache DATA --backbone squeezenet1_0 --weights squeezenet1_0.pth

First, an epoch on cached activations against a naive one, which decodes the images and runs the frozen blocks again: at
each cut, alternating, medians. Then whole runs of `unfreeze tune` on four views of each image with increasing cache
budgets: peak resident memory above that of a run without a cache.
"""

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

from unfreeze.console import RESULTS, print_json
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.backbones.weights import load_pretrained
from unfreeze.tune.data.dataset import TRAIN, read_dataset
from unfreeze.tune.data.views import Views
from unfreeze.tune.device.heap import keep_freed_memory
from unfreeze.tune.device.precision import Precision, choose_precision
from unfreeze.tune.features.activations import ActivationSource
from unfreeze.tune.features.extract import extract_features
from unfreeze.tune.features.placement import CachePlacement
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.recipes.recipe import GENTLE_LEARNING_RATE
from unfreeze.tune.training.optimization import Schedule
from unfreeze.tune.training.train import Training

_ROUNDS = 3
_VIEWS = 4
_POLL_SECONDS = 0.05


def main(
    data: Path,
    *,
    backbone: str = "squeezenet1_0",
    weights: str = "none",
    budgets: Annotated[tuple[float, ...], cyclopts.Parameter(consume_multiple=True)] = (0.0, 0.1, 1.0, 8.0),
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Time epochs at each cut of the second half, then measure the memory of runs from the middle cut.

    Args:
        data: folder of labeled images.
        backbone: torchvision's name of the network.
        weights: pretrained weights, as for `unfreeze tune`.
        budgets: values of `--cache-gb`, in GB.
        json: print JSON instead of tables.
    """
    options = TuneOptions(backbone=backbone, weights=weights, learning_rate=GENTLE_LEARNING_RATE, store_gb=0.0)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        epochs = _epochs(data, options, Path(folder))
    runs = [
        _measure_memory(data, replace(options, cut=str(epochs[0]["cut"]), views=_VIEWS, cache_gb=budget))
        for budget in budgets
    ]
    for run in runs:
        run["above_the_first_mb"] = run["peak_mb"] - runs[0]["peak_mb"]
    if json:
        print_json({"epochs": epochs, "runs": runs})
        return
    table = Table("cut", "cached epoch, s", "naive epoch, s", "share", title=f"{backbone} on {data.name}")
    for row in epochs:
        table.add_row(str(row["cut"]), *(f"{row[name]:.2f}" for name in ("cached", "naive", "share")))
    RESULTS.print(table)
    table = Table("--cache-gb", "peak resident MB", "above the first", title=f"whole runs from {epochs[0]['cut']}")
    for run in runs:
        table.add_row(*(f"{run[name]:g}" for name in ("cache_gb", "peak_mb", "above_the_first_mb")))
    RESULTS.print(table)


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


def _measure_memory(data: Path, options: TuneOptions) -> dict[str, float]:
    """Tune in a separate process and read its peak resident memory."""
    names = ("backbone", "weights", "cut", "learning_rate", "views", "cache_gb", "store_gb")
    flags = {name: getattr(options, name) for name in names}
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "unfreeze.command", "tune", str(data), "--out", f"{out}/run", *words]
        process, peak = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), 0
        while process.poll() is None:
            # VmHWM is the child's own peak; the peak from `wait4` would start at the parent's memory before exec.
            peak = max(
                peak, *map(int, re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())), 0
            )
            time.sleep(_POLL_SECONDS)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return {"cache_gb": options.cache_gb, "peak_mb": round(peak / 1000)}


if __name__ == "__main__":
    cyclopts.run(main)
