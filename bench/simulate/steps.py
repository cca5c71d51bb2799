"""A sudden rise of the load, answered by an autoscaler."""

from dataclasses import dataclass
from typing import Any

import simpy

from bench.load import Call, percentile_ms
from bench.simulate.arrivals import constant, poisson, step
from bench.simulate.autoscaler import Autoscaler, AutoscalerOptions
from bench.simulate.batcher import OK, Plan
from bench.simulate.cluster import Cluster, ClusterOptions
from bench.simulate.costs import Costs
from bench.simulate.load import LoadGenerator
from bench.simulate.server import ServerOptions


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """A rise of the load.

    Args:
        before: load before it, relative to the capacity of the first replicas.
        times: factor by which the load rises.
        at_s: when.
        seconds: duration in all.
        timeout_s: deadline of every request.
    """

    before: float = 0.6
    times: float = 3.0
    at_s: float = 60.0
    seconds: float = 420.0
    timeout_s: float = 2.0


def replica_of(cores: int, *, max_queue: int = 1024, frontends: int = 1) -> ServerOptions:
    """Return a server whose instances decode their own images, one for each core."""
    plan = Plan(instances=cores, threads=1, max_batch=4, fused=True)
    return ServerOptions(cores=cores, plan=plan, max_queue=max_queue, frontends=frontends)


def rise(costs: Costs, cluster: ClusterOptions, scaler: AutoscalerOptions | None, load: StepOptions) -> dict[str, Any]:
    """Simulate the rise.

    Args:
        costs: CPU time of the stages.
        cluster: the replicas.
        scaler: the autoscaler; None for none.
        load: the load.

    Returns:
        What the callers saw from the rise on, and the replicas that it took.
    """
    env = simpy.Environment()
    replicas = Cluster(env, costs, cluster)
    history = Autoscaler(env, replicas, scaler).history if scaler else []
    rate = load.before * cluster.replicas * cluster.server.cores / costs.request_s()
    generator = LoadGenerator(env, costs, replicas.handle, timeout_s=load.timeout_s)
    arrivals = poisson(step(rate, load.times * rate, load.at_s), max(1.0, load.times) * rate, load.seconds)
    env.process(generator.open_loop(arrivals))
    env.run(load.seconds + 2 * load.timeout_s)
    calls = [call for call in generator.calls if call.began >= load.at_s]
    good = [call for call in calls if call.status == OK]
    failed = [call for call in calls if call.status != OK]
    last = [call for call in good if call.began > load.seconds - 60]
    return {
        "rate": rate,
        "failed": len(failed) / max(1, len(calls)),
        "recovered_s": max((call.began for call in failed), default=load.at_s) - load.at_s,
        "p99_ms": percentile_ms(good, 99),
        "last_p99_ms": percentile_ms(last, 99),
        "most_replicas": max([cluster.replicas, *(count for _, count in history)]),
        "replicas": len(replicas.serving),
        "history": history,
    }


def busiest(
    costs: Costs, server: ServerOptions, limit_ms: float, seconds: float, replicas: int = 4
) -> tuple[float, float]:
    """Find the highest load of a cell at which the 99th percentile of latency stays below a limit.

    Args:
        costs: CPU time of the stages.
        server: how each replica runs.
        limit_ms: highest p99.
        seconds: simulated duration of each trial.
        replicas: size of the cell.

    Returns:
        Requests a second and replica, and the p99 in milliseconds there.
    """
    most = 1.0 / costs.loop_s * server.frontends if costs.loop_s else float("inf")
    capacity = min(server.cores / costs.request_s(), most)
    found = (0.0, float("nan"))
    for share in (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95):
        calls = cell(costs, ClusterOptions(server=server, replicas=replicas), share * capacity * replicas, seconds)
        p99_ms = percentile_ms(calls, 99)
        if p99_ms > limit_ms or any(call.status != OK for call in calls):
            break
        found = share * capacity, p99_ms
    return found


def cell(costs: Costs, cluster: ClusterOptions, rate: float, seconds: float, seed: int = 0) -> list[Call]:
    """Simulate replicas behind a balancer at a steady load.

    Args:
        costs: CPU time of the stages.
        cluster: the replicas.
        rate: requests a second, in all.
        seconds: duration.
        seed: random seed.
    """
    env = simpy.Environment()
    replicas = Cluster(env, costs, cluster, seed)
    generator = LoadGenerator(env, costs, replicas.handle)
    env.process(generator.open_loop(poisson(constant(rate), rate, seconds, seed)))
    env.run(seconds + 30)
    return generator.calls
