"""`unfreeze tune` against fastai's `vision_learner(...).fine_tune(4)`: accuracy and seconds of whole processes.

python -m bench.tune DATA... --backbone squeezenet1_0 --weights squeezenet1_0.pth

Same images, weights and cores, alternating, once per seed; both include imports. fastai is installed into a separate
environment under `bench/out`. DATA has train and val folders.
"""

import json as jsons
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Any

import cyclopts
from rich.table import Table

from bench.peers.environment import peer_python
from unfreeze.console import REMARKS, RESULTS, print_json
from unfreeze.contract.cores import usable_cores

_FASTAI = "fastai==2.8.*"


def main(
    *data: Path,
    weights: Path,
    backbone: str = "squeezenet1_0",
    seeds: int = 3,
    ours_only: Annotated[bool, cyclopts.Parameter(negative="")] = False,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Tune with both, alternating, and compare.

    Args:
        data: folders of labeled images, each with train and val folders.
        weights: file with pretrained weights.
        backbone: torchvision's name of the network.
        seeds: number of runs of each.
        ours_only: leave fastai out.
        json: print JSON instead of a table.
    """
    peer = None if ours_only else peer_python("fastai", _FASTAI)
    rows: list[dict[str, Any]] = []
    for folder in data:
        for seed in range(seeds):
            row = {"data": folder.name, "seed": seed, **_ours(folder, backbone, weights, seed)}
            if peer is not None:
                row |= _theirs(peer, folder, backbone, weights, seed)
                row["speedup"] = row["fastai_seconds"] / row["seconds"]
            rows.append(row)
            REMARKS.print(jsons.dumps(row), markup=False)
    if json:
        print_json(rows)
        return
    cores = usable_cores()
    table = Table(
        *("data", "accuracy", "seconds", "recipe", "fastai accuracy", "fastai seconds", "speedup"),
        title=f"{backbone}, {cores} cores, {platform.machine()}, torch {version('torch')}, {seeds} seeds, "
        f"{datetime.now(UTC):%Y-%m-%d}: mean accuracy, median seconds",
    )
    for name in dict.fromkeys(row["data"] for row in rows):
        table.add_row(name, *_summary([row for row in rows if row["data"] == name]))
    RESULTS.print(table)


def _ours(data: Path, backbone: str, weights: Path, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as out:
        flags = ["--backbone", backbone, "--weights", str(weights), "--seed", str(seed), "--json"]
        command = [sys.executable, "-m", "unfreeze.command", "tune", str(data), "--out", f"{out}/run", *flags]
        metrics, seconds = _timed(command)
    return {"seconds": seconds} | {name: metrics[name] for name in ("val_accuracy", "recipe", "cut")}


def _theirs(python: Path, data: Path, backbone: str, weights: Path, seed: int) -> dict[str, Any]:
    program = Path(__file__).parent / "peers" / "fastai_fine_tune.py"
    flags = ["--backbone", backbone, "--weights", str(weights), "--seed", str(seed)]
    metrics, seconds = _timed([str(python), "-W", "ignore", str(program), str(data), *flags])
    return {"fastai_seconds": seconds, "fastai_accuracy": metrics["val_accuracy"]}


def _timed(command: list[str]) -> tuple[dict[str, Any], float]:
    started = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return jsons.loads(done.stdout.splitlines()[-1]), time.monotonic() - started


def _summary(rows: list[dict[str, Any]]) -> list[str]:
    found = [
        f"{mean(row['val_accuracy'] for row in rows):.3f}",
        f"{median(row['seconds'] for row in rows):.0f}",
        ", ".join(dict.fromkeys(f"{row['recipe']} ({row['cut']})" for row in rows)),
    ]
    if "fastai_seconds" not in rows[0]:
        return [*found, "", "", ""]
    return [
        *found,
        f"{mean(row['fastai_accuracy'] for row in rows):.3f}",
        f"{median(row['fastai_seconds'] for row in rows):.0f}",
        f"{median(row['speedup'] for row in rows):.1f}",
    ]


if __name__ == "__main__":
    cyclopts.run(main)
