"""The simulation against the real server, on this machine."""

import asyncio
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import simpy

from bench.endure import ServedProcess, frontend_arguments, random_repository, read_requests, served
from bench.load import Call, at_a_rate, callers, percentile_ms
from bench.simulate.arrivals import constant, poisson
from bench.simulate.batcher import OK, Plan
from bench.simulate.calibrate import calibrate, measure_bridge, measure_stages, observe, read_plan
from bench.simulate.cores import Cores
from bench.simulate.costs import Costs
from bench.simulate.load import LoadGenerator
from bench.simulate.server import Server, ServerOptions
from unfreeze.console import REMARKS
from unfreeze.contract.cores import usable_cores
from unfreeze.contract.images.preprocess import prepare
from unfreeze.contract.model.onnx_metadata import read_manifest
from unfreeze.contract.model.repository import ModelRepository

_MODEL, _MAX_QUEUE, _LARGEST = "random", 64, 8


@dataclass(frozen=True, kw_only=True)
class LoadCase:
    """One load.

    Args:
        name: its name.
        callers: number of callers that wait for their answers; 0 for arrivals at a rate.
        of_peak: rate relative to the peak throughput.
    """

    name: str
    callers: int = 0
    of_peak: float = 0.0


CASES = (
    LoadCase(name="1 caller", callers=1),
    LoadCase(name="8 callers", callers=8),
    LoadCase(name="32 callers", callers=32),
    LoadCase(name="open, 30 % of peak", of_peak=0.3),
    LoadCase(name="open, 60 % of peak", of_peak=0.6),
    LoadCase(name="open, 80 % of peak", of_peak=0.8),
    LoadCase(name="open, 300 % of peak", of_peak=3.0),
)


def compare(images: Path, seconds: float) -> tuple[Costs, Plan, list[dict[str, Any]]]:
    """Calibrate, load the real server in every way, and simulate the same.

    Args:
        images: folder of JPEG files.
        seconds: duration of each load.

    Returns:
        The costs, the server's plan, and a row for each load.
    """
    requests = read_requests(images)
    encoded = [file.read_bytes() for file in sorted(images.rglob("*.jpg"))]
    rows: list[dict[str, Any]] = []
    with random_repository() as repository:
        model = ModelRepository(repository).path(_MODEL, 1)
        decode_s, infer_s = measure_stages(model, encoded, _LARGEST)
        spec = read_manifest(model.read_bytes()).preprocess
        stages = Costs(
            decode_s=decode_s,
            infer_s=infer_s,
            image_bytes=sum(map(len, encoded)) / len(encoded),
            pixels_bytes=prepare(encoded[0], spec).nbytes,
        )
        with served(repository, "--max-queue", str(_MAX_QUEUE)) as server:
            plan = read_plan(server.target)
            costs = calibrate(server, requests, stages, seconds / 2)
            peak = 0.0
            for case in CASES:
                usage = observe(server, partial(_load, server, requests, case, peak, seconds))
                measured = _figures(usage.calls, seconds)
                peak = max(peak, measured["per_s"]) if case.callers else peak
                rows.append({"load": case.name, "rate": case.of_peak * peak, "measured": measured})
                rows[-1]["server_cpu_ms"] = 1000 * (usage.loop_s + usage.other_s) / max(1, usage.answered)
                rows[-1]["other_cores"] = usage.others_s / seconds
                REMARKS.print(rows[-1], markup=False)
        with served(repository, *frontend_arguments(2)) as server:
            costs = replace(costs, bridge_s=measure_bridge(server, requests, costs, seconds / 2))
    for case, row in zip(CASES, rows, strict=True):
        row["simulated"] = _figures(simulate(costs, plan, case, row["rate"], seconds), seconds)
    return costs, plan, rows


def _load(server: ServedProcess, requests: list[bytes], case: LoadCase, peak: float, seconds: float) -> list[Call]:
    if case.callers:
        return asyncio.run(callers(server.target, requests, case.callers, seconds))
    return asyncio.run(at_a_rate(server.target, requests, case.of_peak * peak, seconds))


def simulate(costs: Costs, plan: Plan, case: LoadCase, rate: float, seconds: float) -> list[Call]:
    """Simulate a load on one machine that the server shares with the generator.

    Args:
        costs: CPU time of the stages.
        plan: the server's execution plan.
        case: the load.
        rate: requests a second, if the case has no callers.
        seconds: duration.
    """
    env = simpy.Environment()
    cores = Cores(env, usable_cores())
    options = ServerOptions(cores=usable_cores(), plan=plan, max_queue=_MAX_QUEUE)
    server = Server(env, costs, options, cores)
    load = LoadGenerator(env, costs, server.handle, cores=cores)
    processes: list[Callable[[], Generator[simpy.Event, Any, None]]]
    if case.callers:
        processes = [partial(load.closed_loop, seconds)] * case.callers
    else:
        times = list(poisson(constant(rate), rate, seconds))
        processes = [partial(load.open_loop, times)]
    for process in processes:
        env.process(process())
    env.run()
    return load.calls


def _figures(calls: list[Call], seconds: float) -> dict[str, float]:
    good = [call for call in calls if call.status == OK]
    statuses = Counter(call.status for call in calls)
    return {
        "per_s": len(good) / seconds,
        "p50_ms": percentile_ms(good, 50),
        "p99_ms": percentile_ms(good, 99),
        "refused": 1 - statuses[OK] / max(1, len(calls)),
    }
