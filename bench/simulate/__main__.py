"""A queueing simulation of the server, held against the real one, and what it says about large loads.

python -m bench.simulate validate --images photographs/ --save bench/simulate/measured.json
"""

import platform
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from rich.table import Table

from bench.simulate.costs import write_costs
from unfreeze.console import RESULTS, print_json
from unfreeze.contract.cores import usable_cores

app = cyclopts.App(help=__doc__)
Json = Annotated[bool, cyclopts.Parameter(negative="")]


@app.command
def validate(*, images: Path, seconds: float = 12, save: Path | None = None, json: Json = False) -> None:
    """Measure what requests cost, and compare simulated throughput and latency with those of the real server.

    Args:
        images: folder of JPEG files.
        seconds: duration of each load.
        save: write the costs and the comparison to this file.
        json: print JSON instead of a table.
    """
    from bench.simulate.validate import compare

    costs, plan, rows = compare(images, seconds)
    facts = {"machine": _machine(), "plan": str(plan), "rows": rows}
    if save:
        write_costs(save, costs, facts)
    if json:
        print_json(facts)
        return
    stages = {
        "decode": costs.mean_decode_s,
        "runtime, batch of 1": costs.batch_s(1),
        "transport": costs.transport_s,
        "event loop": costs.loop_s,
        "refusal": costs.refuse_s,
        "generator": costs.client_s,
    }
    table = Table("stage", "CPU ms a request", title=str(plan))
    for name, seconds_each in stages.items():
        table.add_row(name, f"{1000 * seconds_each:.2f}")
    RESULTS.print(table)
    RESULTS.print(_comparison(rows))


def _comparison(rows: list[dict[str, Any]]) -> Table:
    table = Table("load", "answers /s: real, simulated", "", "p50 ms", "", "p99 ms", "", "refused")
    for row in rows:
        real, simulated = row["measured"], row["simulated"]
        cells: list[str] = []
        for what, form in (("per_s", ".0f"), ("p50_ms", ".1f"), ("p99_ms", ".1f")):
            difference = simulated[what] / real[what] - 1
            cells += [f"{real[what]:{form}}, {simulated[what]:{form}}", f"{100 * difference:+.0f} %"]
        refused = f"{100 * real['refused']:.1f} %, {100 * simulated['refused']:.1f} %"
        table.add_row(row["load"], *cells, refused)
    return table


def _machine() -> str:
    return f"{usable_cores()} cores, {platform.machine()}, Python {platform.python_version()}"


if __name__ == "__main__":
    app()
