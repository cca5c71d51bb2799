"""Accuracy and cost of `auto` against every recipe by name: the regret of the choice.

python -m bench.recipes DATA... --backbone squeezenet1_0 --weights squeezenet1_0.pth --seeds 3
"""

import math
import tempfile
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import cyclopts
import torch
from rich.table import Table

from unfreeze.console import RESULTS, TerminalReporter, print_json
from unfreeze.tune.backbones.weights import load_pretrained
from unfreeze.tune.device.heap import keep_freed_memory
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.recipes.registry import AUTO, block_recipes, recipe_names
from unfreeze.tune.run import fine_tune

_FIGURES = ("val_accuracy", "val_balanced_accuracy", "seconds", "recipe", "cut", "learning_rate")


def main(
    *data: Path,
    backbone: str = "squeezenet1_0",
    weights: str = "none",
    seeds: int = 1,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Tune with `auto`, then with every recipe.

    Args:
        data: folders of labeled images.
        backbone: torchvision's name of the network.
        weights: pretrained weights, as for `unfreeze tune`.
        seeds: number of random seeds.
        json: print JSON instead of a table.
    """
    keep_freed_memory()
    rows: list[dict[str, Any]] = []
    suitable = _suitable(backbone)
    with TerminalReporter() as reporter:
        for seed in range(seeds):
            for folder in data:
                for recipe in (AUTO, *suitable):
                    options = TuneOptions(backbone=backbone, weights=weights, recipe=recipe, seed=seed, store_gb=0.0)
                    with tempfile.TemporaryDirectory() as out:
                        metrics = fine_tune(folder, Path(out) / "run", options, reporter)
                    row = {"data": folder.name, "seed": seed, "requested": recipe, "val": metrics["images"]["val"]}
                    rows.append(row | {name: metrics[name] for name in _FIGURES})
    verdicts = [
        _verdict([row for row in rows if row["data"] == name]) for name in dict.fromkeys(r["data"] for r in rows)
    ]
    if json:
        print_json({"rows": rows, "verdicts": verdicts})
        return
    table = Table(
        "data", "requested", "chosen", "accuracy", "balanced", "seconds", title=f"{backbone}, {seeds} seeds: means"
    )
    for name, recipe in dict.fromkeys((row["data"], row["requested"]) for row in rows):
        table.add_row(name, recipe, *_cells([row for row in rows if (row["data"], row["requested"]) == (name, recipe)]))
    RESULTS.print(table)
    for verdict in verdicts:
        RESULTS.print(", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in verdict.items()), markup=False)


def _cells(rows: list[dict[str, Any]]) -> list[str]:
    chosen = dict.fromkeys(f"{row['recipe']} from {row['cut']} at {row['learning_rate']:g}" for row in rows)
    means = [mean(row[name] for row in rows) for name in ("val_accuracy", "val_balanced_accuracy", "seconds")]
    return ["; ".join(chosen), f"{means[0]:.3f}", f"{means[1]:.3f}", f"{means[2]:.0f}"]


def _verdict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare `auto` with the recipe that has the best mean accuracy over the seeds."""
    of = {
        recipe: mean(row["val_accuracy"] for row in rows if row["requested"] == recipe)
        for recipe in dict.fromkeys(row["requested"] for row in rows)
    }
    best = max(of.keys() - {AUTO}, key=lambda recipe: of[recipe])
    error = math.sqrt(of[best] * (1 - of[best]) / rows[0]["val"])
    auto_seconds = sum(row["seconds"] for row in rows if row["requested"] == AUTO)
    return {
        "data": rows[0]["data"],
        "best_recipe": best,
        "regret": round(of[best] - of[AUTO], 4),
        "regret_in_standard_errors": round((of[best] - of[AUTO]) / max(error, 1e-9), 2),
        "share_of_the_cost_of_all": round(auto_seconds / (sum(row["seconds"] for row in rows) - auto_seconds), 2),
    }


def _suitable(backbone: str) -> list[str]:
    """Return the recipes; those that adapt an attention only if the backbone has one."""
    network = load_pretrained(backbone, "none").network(backbone, 2, torch.device("cpu"))
    has_attention = network.has_attention(range(len(network.block_names)))
    adapting = {recipe.name for recipe in block_recipes() if recipe.adapts}
    return [name for name in recipe_names() if has_attention or name not in adapting]


if __name__ == "__main__":
    cyclopts.run(main)
