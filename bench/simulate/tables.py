"""Tables of what was measured and simulated."""

from typing import Any

from rich.table import Table

from bench.simulate.costs import Costs

_NOT_MEASURED = "not measured"


def costs_table(costs: Costs, title: str) -> Table:
    """Show the CPU time of the stages.

    Args:
        costs: the costs.
        title: title of the table.
    """
    stages = {
        "decode": costs.mean_decode_s,
        "runtime, batch of 1": costs.batch_s(1),
        "transport": costs.transport_s,
        "event loop": costs.loop_s,
        "refusal": costs.refuse_s,
        "generator": costs.client_s,
        "between a front end and the models": 2 * costs.bridge_s,
    }
    table = Table("stage", "CPU ms a request", title=title)
    for name, seconds_each in stages.items():
        table.add_row(name, f"{1000 * seconds_each:.2f}")
    return table


def comparison_table(rows: list[dict[str, Any]]) -> Table:
    """Show measured and simulated figures, and their relative differences.

    Args:
        rows: one for each load, of `validate.compare`.
    """
    table = Table(
        "load",
        "answers /s",
        "",
        "p50 ms",
        "",
        "p99 ms",
        "",
        "refused",
        "cores used by others",
        title="measured, simulated",
    )
    for row in rows:
        real, simulated = row["measured"], row["simulated"]
        cells: list[str] = []
        for what, form in (("per_s", ".0f"), ("p50_ms", ".1f"), ("p99_ms", ".1f")):
            difference = simulated[what] / real[what] - 1
            cells += [f"{real[what]:{form}}, {simulated[what]:{form}}", f"{100 * difference:+.0f} %"]
        refused = f"{100 * real['refused']:.1f} %, {100 * simulated['refused']:.1f} %"
        table.add_row(row["load"], *cells, refused, f"{row['other_cores']:.2f}")
    return table


def rows_table(title: str, rows: list[dict[str, Any]]) -> Table:
    """Show rows by images a day.

    Args:
        title: title of the table.
        rows: dictionaries with the same keys; None stands for what is not measured.
    """
    names = [name for name in rows[0] if name != "images_a_day"]
    table = Table("images a day", *names, title=title)
    for row in rows:
        cells = [_NOT_MEASURED if row[name] is None else _number(row[name]) for name in names]
        table.add_row(f"{row['images_a_day']:.0e}", *cells)
    return table


def _number(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_number(one)}" for name, one in value.items())
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2g}"  # noqa: PLR2004
