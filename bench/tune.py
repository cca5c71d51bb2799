"""`unfreeze tune` against fastai's `vision_learner(...).fine_tune(4)`: accuracy and seconds of whole processes.

python -m bench.tune --weights squeezenet1_0.pth
python -m bench.tune DATA... --backbone squeezenet1_0 --weights squeezenet1_0.pth --fastai-python ENVIRONMENT/bin/python

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

from bench.images import write_digits, write_stars, write_textures
from bench.peers.environment import peer_python
from unfreeze.console import REMARKS, RESULTS, print_json
from unfreeze.contract.cores import usable_cores

_FASTAI = "fastai==2.8.*"
_FASTAI_EPOCHS = 4
_ROOT = Path(__file__).parents[1]
_DRAWN = {"digits": write_digits, "textures": write_textures, "stars": write_stars}
_COLUMNS = ("accuracy", "balanced", "seconds")


def main(
    *data: Path,
    weights: Path,
    backbone: str = "squeezenet1_0",
    seeds: int = 3,
    fastai_epochs: int = _FASTAI_EPOCHS,
    fastai_python: Path | None = None,
    ours_only: Annotated[bool, cyclopts.Parameter(negative="")] = False,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Tune with both, alternating, and compare.

    Args:
        data: folders of labeled images, each with train and val folders. By default the photographs of hymenoptera in
            ../shared, digits, drawn textures, and drawn stars whose classes have 7 to 300 images.
        weights: file with pretrained weights.
        backbone: torchvision's name of the network.
        seeds: number of runs of each.
        fastai_epochs: epochs of `fine_tune`.
        fastai_python: the Python of an environment with fastai; by default one is made.
        ours_only: leave fastai out.
        json: print JSON instead of a table.
    """
    peer = None if ours_only else fastai_python or peer_python("fastai", _FASTAI)
    rows: list[dict[str, Any]] = []
    folders = data or _default_data()
    for seed in range(seeds):  # in turn, so that a machine that gets busier does so for every set
        for folder in folders:
            row = {"data": folder.name, "seed": seed, **_ours(folder, backbone, weights, seed)}
            if peer is not None:
                row |= _theirs(peer, folder, backbone, weights, seed, fastai_epochs)
            rows.append(row)
            REMARKS.print(jsons.dumps(row), markup=False)
    if json:
        print_json(rows)
        return
    RESULTS.print(_table(rows, f"{backbone}, {usable_cores()} cores, {platform.machine()}, torch {version('torch')}"))


def _default_data() -> tuple[Path, ...]:
    """Return hymenoptera and the drawn sets, which are drawn once."""
    folders = [_ROOT.parent / "shared" / "data" / "hymenoptera"]
    for name, write in _DRAWN.items():
        folder = _ROOT / "bench" / "out" / "images" / name
        if not folder.exists():
            write(folder)
        folders.append(folder)
    return tuple(folders)


def _ours(data: Path, backbone: str, weights: Path, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as out:
        flags = ["--backbone", backbone, "--weights", str(weights), "--seed", str(seed), "--store-gb", "0", "--json"]
        command = [sys.executable, "-m", "unfreeze.command", "tune", str(data), "--out", f"{out}/run", *flags]
        metrics, seconds = _timed(command)
    return _figures(metrics, seconds, "") | {name: metrics[name] for name in ("recipe", "cut", "learning_rate")}


def _theirs(python: Path, data: Path, backbone: str, weights: Path, seed: int, epochs: int) -> dict[str, Any]:
    program = Path(__file__).parent / "peers" / "fastai_fine_tune.py"
    flags = ["--backbone", backbone, "--weights", str(weights), "--seed", str(seed), "--epochs", str(epochs)]
    metrics, seconds = _timed([str(python), "-W", "ignore", str(program), str(data), *flags])
    return _figures(metrics, seconds, "fastai_")


def _figures(metrics: dict[str, Any], seconds: float, prefix: str) -> dict[str, float]:
    found = metrics["val_accuracy"], metrics["val_balanced_accuracy"], seconds
    return {prefix + name: value for name, value in zip(_COLUMNS, found, strict=True)}


def _timed(command: list[str]) -> tuple[dict[str, Any], float]:
    started = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return jsons.loads(done.stdout.splitlines()[-1]), time.monotonic() - started


def _table(rows: list[dict[str, Any]], title: str) -> Table:
    seeds = len({row["seed"] for row in rows})
    table = Table(
        title=f"{title}, {seeds} seeds, {datetime.now(UTC):%Y-%m-%d}: mean accuracy / balanced accuracy, median "
        "seconds and ratio of times"
    )
    theirs = ("fastai", "s", "difference", "ratio") if "fastai_seconds" in rows[0] else ()
    for column in ("data", "unfreeze", "s", "recipe", *theirs):
        table.add_column(column, overflow="fold")
    for name in dict.fromkeys(row["data"] for row in rows):
        table.add_row(name, *_summary([row for row in rows if row["data"] == name]))
    return table


def _summary(rows: list[dict[str, Any]]) -> list[str]:
    chosen = dict.fromkeys(f"{row['recipe']} {row['cut']} {row['learning_rate']:g}" for row in rows)
    found = [*_means(rows, ""), ", ".join(chosen)]
    if "fastai_seconds" not in rows[0]:
        return found
    differences = (mean(row[name] - row[f"fastai_{name}"] for row in rows) for name in ("accuracy", "balanced"))
    ratio = median(row["fastai_seconds"] / row["seconds"] for row in rows)
    return [*found, *_means(rows, "fastai_"), " / ".join(f"{one:+.3f}" for one in differences), f"{ratio:.1f}"]


def _means(rows: list[dict[str, Any]], prefix: str) -> list[str]:
    accuracies = " / ".join(f"{mean(row[prefix + name] for row in rows):.3f}" for name in ("accuracy", "balanced"))
    return [accuracies, f"{median(row[prefix + 'seconds'] for row in rows):.0f}"]


if __name__ == "__main__":
    cyclopts.run(main)
