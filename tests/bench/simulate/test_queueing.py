"""The simulated server against queueing theory, and its own rules."""

import itertools
from collections import Counter
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
import simpy

from bench.load import Call, percentile_ms
from bench.simulate.arrivals import DAY_S, constant, diurnal, poisson
from bench.simulate.batcher import Plan
from bench.simulate.cores import Cores
from bench.simulate.costs import Costs
from bench.simulate.load import LoadGenerator
from bench.simulate.server import Server, ServerOptions


def _served(
    service_s: tuple[float, ...], rate: float, seconds: float, *, cores: int = 1, **options: float
) -> tuple[Server, list[Call]]:
    """Run a server that only decodes, one image at a time on each core."""
    env = simpy.Environment()
    costs = Costs(decode_s=service_s, infer_s=(0.0,))
    plan = Plan(instances=cores, max_batch=1, fused=True)
    server = Server(env, costs, ServerOptions(cores=cores, plan=plan, max_queue=int(options.get("max_queue", 10**9))))
    load = LoadGenerator(env, costs, server.handle)
    env.process(load.open_loop(poisson(constant(rate), rate, seconds)))
    env.run()
    return server, load.calls


def _mean_s(calls: list[Call]) -> float:
    return float(np.mean([call.took_s for call in calls]))


def _exponential(mean: float) -> tuple[float, ...]:
    return tuple(np.random.default_rng(1).exponential(mean, 50_021))


def test_one_server_with_exponential_service() -> None:
    """M/M/1: the mean time in the system is 1 / (mu - lambda)."""
    _, calls = _served(_exponential(1.0), 0.5, 20_000)
    assert _mean_s(calls) == pytest.approx(1 / (1 - 0.5), rel=0.04)


def test_one_server_with_constant_service() -> None:
    """M/D/1: the mean wait is rho / (2 mu (1 - rho))."""
    _, calls = _served((1.0,), 0.6, 15_000)
    assert _mean_s(calls) - 1 == pytest.approx(0.6 / (2 * 0.4), rel=0.04)


def test_several_servers() -> None:
    """M/M/3: the mean wait follows from Erlang's C formula."""
    rate, servers = 2.4, 3
    _, calls = _served(_exponential(1.0), rate, 5_000, cores=servers)
    terms = [rate**k / float(np.prod(range(1, k + 1), initial=1.0)) for k in range(servers + 1)]
    last = terms[servers] * servers / (servers - rate)
    wait_s = last / (sum(terms[:servers]) + last) / (servers - rate)
    assert _mean_s(calls) - 1 == pytest.approx(wait_s, rel=0.08)


def test_littles_law() -> None:
    """The mean number of images in the server is the rate of answers times their mean latency."""
    server, calls = _served(_exponential(1.0), 0.5, 10_000)
    assert server.pending == 0
    assert server.pending_image_s == pytest.approx(sum(call.took_s for call in calls), rel=1e-9)
    assert server.cores.used_s() == pytest.approx(sum(itertools.islice(_exponential(1.0), len(calls))))


def test_cores_are_shared_equally() -> None:
    """Three threads on two cores progress at 2/3 of a core each; those that remain speed up."""
    env = simpy.Environment()
    cores, ends = Cores(env, 2), []

    def work(seconds: float) -> Generator[simpy.Event, Any, None]:
        yield cores.run(seconds)
        ends.append(env.now)

    for seconds in (1.0, 2.0, 3.0):
        env.process(work(seconds))
    env.run()
    assert ends == pytest.approx([1.5, 2.5, 3.5])
    assert cores.used_s() == pytest.approx(6.0)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("frontends", [1, 2])
def test_no_request_is_lost_and_limits_hold(fused: bool, frontends: int) -> None:  # noqa: FBT001
    """At twice the capacity with a short queue and deadlines, every request gets exactly one answer."""
    env = simpy.Environment()
    costs = Costs(
        decode_s=(0.004, 0.006), infer_s=(0.004, 0.006), transport_s=1e-4, loop_s=5e-4, refuse_s=2e-4, bridge_s=1e-4
    )
    plan = Plan(instances=2 if fused else 1, max_batch=4, fused=fused)
    options = ServerOptions(cores=2, plan=plan, max_queue=24, frontends=frontends)
    server = Server(env, costs, options)
    load = LoadGenerator(env, costs, server.handle, each=3, timeout_s=0.1)
    times = list(poisson(constant(150), 150, 6))
    env.process(load.open_loop(iter(times)))
    env.run()
    statuses = Counter(call.status for call in load.calls)
    assert sorted(call.began for call in load.calls) == pytest.approx(times)
    assert set(statuses) == {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"} or statuses["OK"] < len(times)
    assert statuses["OK"] > 120
    assert 12 < server.most_pending <= 24
    assert server.pending == 0
    assert set(server.batcher.batch_sizes) <= {1, 2, 3, 4}
    assert max(server.batcher.batch_sizes) > 2


def test_a_batch_starts_as_soon_as_an_instance_is_free() -> None:
    """An idle server runs one image at once; those that arrive meanwhile form the next batch, up to the limit."""
    env = simpy.Environment()
    costs = Costs(decode_s=(0.0,), infer_s=(1.0, 1.0, 1.0, 1.0))
    plan = Plan(instances=1, max_batch=4, fused=False)
    server = Server(env, costs, ServerOptions(cores=1, plan=plan))
    load = LoadGenerator(env, costs, server.handle)
    env.process(load.open_loop(iter([0.0, *(0.1 * number for number in range(1, 7))])))
    env.run()
    assert server.batcher.batch_sizes == [1, 4, 2]
    assert [round(call.began + call.took_s, 6) for call in load.calls] == [1, 2, 2, 2, 2, 3, 3]


def test_fused_instances_take_their_share() -> None:
    """Of four images for two instances, the first takes half, and the second half of what is left."""
    env = simpy.Environment()
    costs = Costs(decode_s=(0.01,), infer_s=(1.0, 1.0, 1.0, 1.0))
    server = Server(env, costs, ServerOptions(cores=2, plan=Plan(instances=2, max_batch=4, fused=True)))
    load = LoadGenerator(env, costs, server.handle, each=4)
    env.process(load.open_loop(iter([0.0])))
    env.run()
    assert sorted(server.batcher.batch_sizes) == [1, 1, 2]


def test_a_delay_collects_a_batch() -> None:
    """With a delay, the first image waits for others, but not longer."""
    env = simpy.Environment()
    costs = Costs(decode_s=(0.0,), infer_s=(1.0, 1.0, 1.0, 1.0))
    plan = Plan(instances=1, max_batch=4, fused=False, max_delay_s=0.5)
    server = Server(env, costs, ServerOptions(cores=1, plan=plan))
    load = LoadGenerator(env, costs, server.handle)
    env.process(load.open_loop(iter([0.0, 0.2, 5.0])))
    env.run()
    assert server.batcher.batch_sizes == [2, 1]
    assert sorted(call.began + call.took_s for call in load.calls) == pytest.approx([1.5, 1.5, 6.5])


def test_an_accelerator_takes_no_cores() -> None:
    """Batches run on it one after the other."""
    env = simpy.Environment()
    costs = Costs(decode_s=(0.01,), infer_s=(5.0,), device_s=(1.0, 1.5))
    server = Server(env, costs, ServerOptions(cores=1, plan=Plan(instances=2, max_batch=2, fused=False)))
    load = LoadGenerator(env, costs, server.handle)
    env.process(load.open_loop(iter([0.0, 0.1])))
    env.run()
    assert [call.began + call.took_s for call in load.calls] == pytest.approx([1.01, 2.01])
    assert server.cores.used_s() == pytest.approx(0.02)


def test_callers_wait_for_their_answers() -> None:
    """A closed loop of N callers never has more than N requests in the server."""
    env = simpy.Environment()
    costs = Costs(decode_s=(0.01,), infer_s=(0.01,), client_s=0.001)
    server = Server(env, costs, ServerOptions(cores=2, plan=Plan(instances=2, max_batch=1, fused=True)))
    load = LoadGenerator(env, costs, server.handle, cores=server.cores)
    for _ in range(3):
        env.process(load.closed_loop(10))
    env.run()
    assert server.most_pending <= 3
    assert len(load.calls) == pytest.approx(10 / (0.021 / 2), rel=0.02)  # CPU of both cores
    assert percentile_ms(load.calls, 50) >= 21


def test_a_day() -> None:
    """Arrivals of a day have the given mean; most arrive around noon, fewest at midnight."""
    times = np.array(list(poisson(diurnal(0.2, 1.8), 0.36, DAY_S)))
    assert len(times) == pytest.approx(0.2 * DAY_S, rel=0.02)
    hours = np.histogram(times, 24, (0, DAY_S))[0] / 3600
    assert hours[11:13].mean() == pytest.approx(0.36, rel=0.06)
    assert hours[0] == pytest.approx(0.04, rel=0.3)
