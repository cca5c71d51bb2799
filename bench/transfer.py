"""The wallpaper demo from the built-in weights and from random weights.

python -m bench.transfer
"""

import tempfile
from pathlib import Path
from typing import Annotated

import cyclopts
from rich.table import Column, Table

from unfreeze.console import RESULTS, TerminalReporter, print_json
from unfreeze.demo.options import DemoOptions
from unfreeze.demo.wallpaper.dataset import wallpaper_set, wallpaper_tune_options, write_wallpaper_groups
from unfreeze.tune.run import fine_tune

_WEIGHTS = ("builtin", "none")


def main(*, json: Annotated[bool, cyclopts.Parameter(negative="")] = False) -> None:
    """Tune from both and compare.

    Args:
        json: print JSON instead of a table.
    """
    options, rows = DemoOptions(), []
    with tempfile.TemporaryDirectory() as folder, TerminalReporter() as reporter:
        data = Path(folder) / "images"
        write_wallpaper_groups(data, wallpaper_set(options), reporter)
        for weights in _WEIGHTS:
            metrics = fine_tune(data, Path(folder) / weights, wallpaper_tune_options(options, weights), reporter)
            names = ("recipe", "val_accuracy", "probe_val_accuracy", "seconds")
            rows.append({"weights": weights} | {name: metrics[name] for name in names})
    if json:
        print_json(rows)
        return
    table = Table(
        *(Column(name.replace("_", " "), overflow="fold") for name in rows[0]),
        title="mobilenet_v3_small on the 17 wallpaper groups",
    )
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else value for value in row.values()))
    RESULTS.print(table)


if __name__ == "__main__":
    cyclopts.run(main)
