"""Accuracy and cost of `auto` against every recipe by name.

python -m bench.recipes DATA --backbone squeezenet1_0 --weights squeezenet1_0.pth
"""

import math
import tempfile
from pathlib import Path
from typing import Annotated

import cyclopts
import torch
from rich.table import Table

from unfreeze.console import RESULTS, TerminalReporter, print_json
from unfreeze.tune.backbones.weights import load_pretrained
from unfreeze.tune.device.heap import keep_freed_memory
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.recipes.registry import AUTO, block_recipes, recipe_names
from unfreeze.tune.run import fine_tune


def main(
    data: Path,
    *,
    backbone: str = "squeezenet1_0",
    weights: str = "none",
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Tune with `auto`, then with every recipe.

    Args:
        data: folder of labeled images.
        backbone: torchvision's name of the network.
        weights: pretrained weights, as for `unfreeze tune`.
        json: print JSON instead of a table.
    """
    keep_freed_memory()
    rows = []
    with tempfile.TemporaryDirectory() as folder, TerminalReporter() as reporter:
        for recipe in (AUTO, *_suitable(backbone)):
            options = TuneOptions(backbone=backbone, weights=weights, recipe=recipe)
            metrics = fine_tune(data, Path(folder) / recipe, options, reporter)
            names = ("val_accuracy", "seconds", "recipe", "cut", "learning_rate")
            rows.append({"requested": recipe} | {name: metrics[name] for name in names})
    auto, named = rows[0], rows[1:]
    best = max(named, key=lambda row: row["val_accuracy"])
    error = math.sqrt(best["val_accuracy"] * (1 - best["val_accuracy"]) / metrics["images"]["val"])
    verdict = {
        "standard_errors_behind_the_best": (best["val_accuracy"] - auto["val_accuracy"]) / max(error, 1e-9),
        "share_of_the_cost_of_all": auto["seconds"] / sum(row["seconds"] for row in named),
    }
    if json:
        print_json({"rows": rows, **verdict})
        return
    table = Table("requested", "chosen", "accuracy", "seconds", title=f"{backbone} on {data.name}")
    for row in rows:
        chosen = f"{row['recipe']} from {row['cut']} at {row['learning_rate']:g}"
        table.add_row(row["requested"], chosen, f"{row['val_accuracy']:.3f}", f"{row['seconds']:.0f}")
    RESULTS.print(table)
    RESULTS.print(", ".join(f"{name.replace('_', ' ')}: {value:.2f}" for name, value in verdict.items()))


def _suitable(backbone: str) -> list[str]:
    """Return the recipes; those that adapt an attention only if the backbone has one."""
    network = load_pretrained(backbone, "none").network(backbone, 2, torch.device("cpu"))
    has_attention = network.has_attention(range(len(network.block_names)))
    adapting = {recipe.name for recipe in block_recipes() if recipe.adapts}
    return [name for name in recipe_names() if has_attention or name not in adapting]


if __name__ == "__main__":
    cyclopts.run(main)
