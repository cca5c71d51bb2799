"""Recipes and poolings of a small vision transformer on a drawn data set that is unlike its pretraining.

python -m bench.vit.pretrain
python -m bench.vit DATA
"""

import math
import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import onnx
from rich.table import Table

from bench.vit.pretrain import WEIGHTS
from unfreeze.console import RESULTS, TerminalReporter, print_json
from unfreeze.export.graph import CalibratedNetwork, onnx_from_network
from unfreeze.tune.artifacts.checkpoint import load_run
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

BACKBONE = "bench.vit.backbone:small_vit"


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to tune.

    Args:
        name: short description.
        options: of the run, by name.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)


_OLD_DECAY = 0.3 ** (1 / 7)  # the rule of convolutional networks, for 7 blocks
WAYS = (
    Way(name="probe", options={"recipe": "probe"}),
    Way(name="probe, class-mean", options={"recipe": "probe", "pooling": "class-mean"}),
    *(
        Way(name=f"{name}, layer decay {decay:.2f}", options={**of, "learning_rate": 3e-3, "layer_decay": decay})
        for name, of in (("last half", {"recipe": "last-blocks", "cut": "blocks.3"}), ("all", {"recipe": "all"}))
        for decay in (_OLD_DECAY, 0.75, 1.0)
    ),
    *(Way(name=f"lora at {rate:g}", options={"recipe": "lora", "learning_rate": rate}) for rate in (1e-3, 3e-3, 1e-2)),
    Way(name="all, 10 epochs", options={"recipe": "all", "learning_rate": 3e-3, "epochs": 10}),
    Way(name="lora, 10 epochs", options={"recipe": "lora", "learning_rate": 1e-2, "epochs": 10}),
    Way(name="lora, class-mean", options={"recipe": "lora", "learning_rate": 1e-2, "pooling": "class-mean"}),
    Way(name="lora from the half", options={"recipe": "lora", "learning_rate": 1e-2, "cut": "blocks.3"}),
)


def main(
    data: Path,
    *,
    weights: Path = WEIGHTS,
    seeds: int = 2,
    only: tuple[str, ...] = ("",),
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Tune in each way with several seeds.

    Args:
        data: folder of labeled images, as `python -m bench.images` writes them.
        weights: what `python -m bench.vit.pretrain` has stored.
        seeds: number of seeds.
        only: leave out the ways whose name contains none of these.
        json: print JSON instead of a table.
    """
    with TerminalReporter() as reporter, tempfile.TemporaryDirectory() as folder:
        rows = []
        for number, way in enumerate(way for way in WAYS if any(part in way.name for part in only)):
            runs = (Path(folder) / f"{number} {seed}" for seed in range(seeds))
            rows.append(_row(way, [_tuned(data, weights, way, seed, run) for seed, run in enumerate(runs)]))
            reporter.info(f"{way.name}: {rows[-1]['accuracy']:.3f} in {rows[-1]['seconds']:.0f} s")
    if json:
        print_json(rows)
        return
    table = Table(*(name.replace("_", " ") for name in rows[0]), title=f"small_vit on {data.name}, {seeds} seeds")
    for row in rows:
        table.add_row(*(f"{value:,.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    RESULTS.print(table)


def _tuned(data: Path, weights: Path, way: Way, seed: int, run: Path) -> dict[str, Any]:
    """Tune, and export a graph; return the figures of both."""
    options = TuneOptions(backbone=BACKBONE, weights=str(weights), flip="no", seed=seed, store_gb=0.0, **way.options)
    metrics = fine_tune(data, run, options)
    if seed:
        return metrics
    network, facts = load_run(run)
    graph: onnx.ModelProto = onnx_from_network(
        CalibratedNetwork(network, facts.temperature, facts.link), network.image_shape
    )
    return metrics | {"nodes": len(graph.graph.node), "bytes": graph.ByteSize()}


def _row(way: Way, runs: list[dict[str, Any]]) -> dict[str, Any]:
    accuracies = [run["val_accuracy"] for run in runs]
    mean = statistics.fmean(accuracies)
    return {
        "tuned": way.name,
        "accuracy": mean,
        "standard_error": math.sqrt(mean * (1 - mean) / runs[0]["images"]["val"]),
        "range_over_seeds": max(accuracies) - min(accuracies),
        "trained_parameters": runs[0]["trained_parameters"],
        "seconds": statistics.fmean(run["seconds"] for run in runs),
        "nodes": runs[0]["nodes"],
        "graph_bytes": runs[0]["bytes"],
    }


if __name__ == "__main__":
    cyclopts.run(main)
