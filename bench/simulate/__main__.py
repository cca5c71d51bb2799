"""A queueing simulation of the server, held against the real one, and what it says about large loads.

python -m bench.simulate validate --images photographs/ --save bench/simulate/measured.json
python -m bench.simulate scale
python -m bench.simulate replicas
python -m bench.simulate autoscale

The last three use the costs that the first one saved.
"""

import platform
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from rich.table import Table

from bench.load import percentile_ms
from bench.simulate.autoscaler import AutoscalerOptions
from bench.simulate.cluster import ClusterOptions
from bench.simulate.costs import MEASURED, read_costs, write_costs
from bench.simulate.sizing import SizingOptions, frontends_for, magnitudes, replicas_for, size_batch, size_online
from bench.simulate.steps import StepOptions, busiest, cell, replica_of, rise
from bench.simulate.tables import comparison_table, costs_table, rows_table
from unfreeze.console import REMARKS, RESULTS, print_json
from unfreeze.contract.cores import usable_cores

app = cyclopts.App(help=__doc__, default_parameter=cyclopts.Parameter(consume_multiple=True))
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
    RESULTS.print(costs_table(costs, str(plan)), comparison_table(rows))


_SIZING = SizingOptions()
_STEP = StepOptions()


@app.command
def scale(
    sizing: Annotated[SizingOptions, cyclopts.Parameter(name="*")] = _SIZING,
    *,
    costs: Path = MEASURED,
    limit_ms: float = 100,
    seconds: float = 20,
    device_ms: tuple[float, ...] = (),
    json: Json = False,
) -> None:
    """Size services and batch jobs for a million to ten billion images a day.

    Args:
        sizing: assumptions.
        costs: file of `validate --save`.
        limit_ms: highest p99 at the peak.
        seconds: simulated duration of each trial that finds the highest load of a replica.
        device_ms: milliseconds of an accelerator for batches of 1, 2, ... images; without it, no accelerator is sized.
        json: print JSON instead of tables.
    """
    measured, _ = read_costs(costs)
    server = replica_of(sizing.replica_cores)
    per_replica, p99_ms = busiest(measured, server, limit_ms, seconds)
    device = replace(measured, device_s=tuple(each / 1000 for each in device_ms)) if device_ms else None
    per_device, device_p99_ms = busiest(device, server, limit_ms, seconds) if device else (0.0, 0.0)
    online = [size_online(measured, per_replica, load, sizing) for load in magnitudes()]
    batch = [size_batch(measured, load, sizing) for load in magnitudes()]
    for row in online:
        row["devices"] = _devices(row, per_device, sizing) if device else None
    facts = {"per_replica": per_replica, "p99_ms": p99_ms, "per_device": per_device, "device_p99_ms": device_p99_ms}
    if json:
        print_json({**facts, "online": online, "batch": batch})
        return
    RESULTS.print(rows_table("online", online), rows_table("batch", batch))
    simulated = f"{per_replica:.0f} requests a second, p99 {p99_ms:.0f} ms (simulated)"
    RESULTS.print(f"a replica of {sizing.replica_cores} cores: {simulated}")


def _devices(row: dict[str, Any], per_device: float, sizing: SizingOptions) -> dict[str, float]:
    """Count replicas with an accelerator each, and what they cost."""
    count = replicas_for(row["peak_per_s"], per_device, sizing)
    cores = count * sizing.replica_cores
    return {"count": count, "cost_a_day": 24 * (count * sizing.device_hour + cores * sizing.core_hour)}


@app.command
def replicas(
    *,
    costs: Path = MEASURED,
    cores: tuple[int, ...] = (2, 4, 8, 16, 32),
    limit_ms: float = 100,
    seconds: float = 5,
    json: Json = False,
) -> None:
    """Simulate replicas of different sizes: where one event loop is not enough, and what front ends change.

    Args:
        costs: file of `validate --save`.
        cores: cores of a replica.
        limit_ms: highest p99.
        seconds: simulated duration of each trial.
        json: print JSON instead of a table.
    """
    measured, _ = read_costs(costs)
    rows: list[dict[str, Any]] = []
    for count in cores:
        for frontends in sorted({1, frontends_for(measured, count)}):
            server = replica_of(count, frontends=frontends)
            per_s, p99_ms = busiest(measured, server, limit_ms, seconds, replicas=1)
            loop = per_s * measured.loop_s / frontends
            rows.append({"cores": count, "frontends": frontends, "per_s": per_s, "p99_ms": p99_ms, "loop_busy": loop})
            REMARKS.print(rows[-1], markup=False)
    if json:
        print_json(rows)
        return
    table = Table("cores", "front ends", "requests /s", "a core", "p99 ms", "event loop busy")
    for row in rows:
        figures = f"{row['per_s']:.0f}", f"{row['per_s'] / row['cores']:.0f}", f"{row['p99_ms']:.0f}"
        table.add_row(str(row["cores"]), str(row["frontends"]), *figures, f"{100 * row['loop_busy']:.0f} %")
    RESULTS.print(table)


@app.command
def autoscale(
    load: Annotated[StepOptions, cyclopts.Parameter(name="*")] = _STEP,
    *,
    costs: Path = MEASURED,
    network: float = 10,
    startups: tuple[float, ...] = (30, 60, 120),
    targets: tuple[float, ...] = (8,),
    cpu_targets: tuple[float, ...] = (0.6, 0.8),
    first: int = 2,
    max_queue: int = 128,
    json: Json = False,
) -> None:
    """Simulate a step of the load that an autoscaler answers, on queue length and on CPU.

    Args:
        load: the rise.
        costs: file of `validate --save`.
        network: cost of the network relative to the measured one; a larger one needs fewer simulated requests.
        startups: seconds until a new replica serves.
        targets: images that wait or run, for each replica.
        cpu_targets: shares of the cores in use.
        first: replicas at the start.
        max_queue: images that may wait in a replica.
        json: print JSON instead of a table.
    """
    measured = read_costs(costs)[0].scaled(network)
    scalers: list[AutoscalerOptions | None] = [None]
    scalers += [AutoscalerOptions(metric="cpu", target=target, largest=20 * first) for target in cpu_targets]
    pending = [AutoscalerOptions(metric="pending", target=target, largest=20 * first) for target in targets]
    scalers += [*pending, *(replace(scaler, least_growth=2, growth_s=60) for scaler in pending)]
    capacity = 2 / measured.request_s()
    scalers += [AutoscalerOptions(metric="rate", target=0.6 * capacity, largest=20 * first)]
    rows: list[dict[str, Any]] = []
    for startup_s in startups:
        options = ClusterOptions(server=replica_of(2, max_queue=max_queue), replicas=first, startup_s=startup_s)
        for scaler in scalers if startup_s == startups[0] else scalers[1:]:
            name = _describe(scaler)
            rows.append({"startup_s": startup_s, "scaler": name, **rise(measured, options, scaler, load)})
            REMARKS.print({**rows[-1], "history": ...}, markup=False)
    if json:
        print_json(rows)
        return
    table = Table("start-up s", "scaled on", "failed", "last failure", "p99 ms", "p99 at the end", "most replicas")
    for row in rows:
        figures = f"{100 * row['failed']:.1f} %", f"{row['recovered_s']:.0f} s", f"{row['p99_ms']:.0f}"
        table.add_row(
            f"{row['startup_s']:.0f}", row["scaler"], *figures, f"{row['last_p99_ms']:.0f}", str(row["most_replicas"])
        )
    RESULTS.print(table)


def _describe(scaler: AutoscalerOptions | None) -> str:
    if scaler is None:
        return "nothing"
    limit = f", doubling in {scaler.growth_s:g} s" if scaler.metric == "pending" else ""
    return f"{scaler.metric} {scaler.target:.3g}{limit}"


@app.command
def failures(
    *,
    costs: Path = MEASURED,
    network: float = 10,
    count: int = 6,
    load: float = 0.5,
    mean_life_s: float = 120,
    seconds: float = 300,
    retries: tuple[int, ...] = (0, 1, 3),
) -> None:
    """Simulate replicas that fail at random: what callers lose, with and without retries.

    Args:
        costs: file of `validate --save`.
        network: cost of the network relative to the measured one.
        count: replicas.
        load: load relative to their capacity.
        mean_life_s: mean time between failures of a replica.
        seconds: duration.
        retries: how often a caller repeats a request.
    """
    measured = read_costs(costs)[0].scaled(network)
    rate = load * count * 2 / measured.request_s()
    table = Table("retries", "requests", "lost", "p99 ms")
    for number in retries:
        options = ClusterOptions(server=replica_of(2), replicas=count, mean_life_s=mean_life_s, retries=number)
        calls = cell(measured, options, rate, seconds)
        lost = sum(call.status != "OK" for call in calls)
        table.add_row(
            str(number), str(len(calls)), f"{100 * lost / len(calls):.2f} %", f"{percentile_ms(calls, 99):.0f}"
        )
    RESULTS.print(table)


def _machine() -> str:
    return f"{usable_cores()} cores, {platform.machine()}, Python {platform.python_version()}"


if __name__ == "__main__":
    app()
