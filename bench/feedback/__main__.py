"""What correcting recorded images gives, and what recording costs.

python -m bench.feedback
python -m bench.feedback --rounds 12 --seconds 4 --json

A network is tuned on handwritten digits and served with `--record`. Callers send digits as they were and in a new
look; a part of what was recorded is given its true labels through the code behind `unfreeze review`, and the network
is tuned again with the feature store and without, in turn. Judged are digits that were neither sent nor trained
on. Then servers with and without recording are loaded in turn, with images of which no two are the same.
"""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import cyclopts
import numpy as np
from rich.table import Table

from bench.feedback.cost import measure_cost
from bench.feedback.loop import Loop, run_loop
from unfreeze.console import RESULTS, TerminalReporter, print_json

_SHARES = 0.01, 1.0


def main(
    *,
    reviewed: int = 100,
    recipe: str = "probe",
    rounds: int = 8,
    seconds: float = 4.0,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Measure both.

    Args:
        reviewed: number of images that are reviewed.
        recipe: of tuning, as for `unfreeze tune`.
        rounds: of each server.
        seconds: duration of a round.
        json: print JSON instead of tables.
    """
    with TerminalReporter() as reporter:
        with tempfile.TemporaryDirectory() as folder:
            loop = run_loop(Path(folder), reviewed, 3, recipe, reporter)
        with tempfile.TemporaryDirectory() as folder:
            ratios = measure_cost(Path(folder), _SHARES, rounds, seconds, reporter)
    if json:
        print_json({"loop": asdict(loop), "ratios": {str(share): found for share, found in ratios.items()}})
        return
    RESULTS.print(_loop_table(loop))
    cost = Table("recorded share", "requests/s with / without", "quartiles", title=f"{rounds} rounds of {seconds:g} s")
    for share, found in ratios.items():
        low, middle, high = np.quantile(found, [0.25, 0.5, 0.75])
        cost.add_row(f"{share:g}", f"{middle:.3f}", f"{low:.3f} to {high:.3f}")
    RESULTS.print(cost)


def _loop_table(loop: Loop) -> Table:
    table = Table("figure", "value", title="handwritten digits in a new look")
    for look in loop.before:
        table.add_row(f"accuracy, {look} look, before / after", f"{loop.before[look]:.3f} / {loop.after[look]:.3f}")
    table.add_row("images sent", f"{loop.sent:,}")
    table.add_row("recorded, of these in the new look", f"{loop.recorded:,}, {loop.recorded_shifted:,}")
    table.add_row("reviewed, of these corrected", f"{loop.reviewed:,}, {loop.corrected:,}")
    table.add_row(
        "tuning again, with / without the feature store", f"{loop.with_store_s:.1f} / {loop.without_store_s:.1f} s"
    )
    return table


if __name__ == "__main__":
    cyclopts.run(main)
