"""Estimated against measured seconds of `unfreeze plan`, for four cuts.

python -m bench.plan DATA --backbone squeezenet1_0 --weights squeezenet1_0.pth
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cyclopts
from rich.table import Table

from unfreeze.console import RESULTS, TerminalReporter, print_json
from unfreeze.tune.cost.plan import plan
from unfreeze.tune.device.heap import keep_freed_memory
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.recipes.recipe import GENTLE_LEARNING_RATE
from unfreeze.tune.run import fine_tune


def main(
    data: Path,
    *,
    backbone: str = "squeezenet1_0",
    weights: str = "none",
    epochs: int = 4,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Plan, then tune from four cuts between head and input, and compare the seconds.

    Args:
        data: folder of labeled images.
        backbone: torchvision's name of the network.
        weights: pretrained weights, as for `unfreeze tune`.
        epochs: number of epochs.
        json: print JSON instead of a table.
    """
    options = TuneOptions(
        backbone=backbone, weights=weights, epochs=epochs, learning_rate=GENTLE_LEARNING_RATE, store_gb=0.0
    )
    keep_freed_memory()
    rows = []
    with tempfile.TemporaryDirectory() as folder, TerminalReporter() as reporter:
        plans = plan(options, data=data, reporter=reporter)
        for one in (plans[0], plans[len(plans) // 3], plans[2 * len(plans) // 3], plans[-1]):
            metrics = fine_tune(data, Path(folder) / one.cut, replace(options, cut=one.cut), reporter)
            rows.append({"cut": one.cut, "predicted": one.seconds, "measured": metrics["seconds"]})
    for row in rows:
        row["ratio"] = row["predicted"] / row["measured"]
    if json:
        print_json(rows)
        return
    table = Table("cut", "predicted, s", "measured, s", "ratio", title=f"{backbone} on {data.name}, {epochs} epochs")
    for row in rows:
        table.add_row(row["cut"], f"{row['predicted']:.1f}", f"{row['measured']:.1f}", f"{row['ratio']:.2f}")
    RESULTS.print(table)


if __name__ == "__main__":
    cyclopts.run(main)
