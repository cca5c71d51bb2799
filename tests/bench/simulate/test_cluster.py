"""Simulated replicas: balancing, failures, autoscaling and sizing."""

from dataclasses import replace
from pathlib import Path

import pytest
import simpy

from bench.load import Call
from bench.simulate.arrivals import constant, poisson
from bench.simulate.autoscaler import Autoscaler, AutoscalerOptions
from bench.simulate.cluster import Cluster, ClusterOptions
from bench.simulate.costs import Costs, read_costs, write_costs
from bench.simulate.load import LoadGenerator
from bench.simulate.sizing import SizingOptions, frontends_for, replicas_for, size_batch, size_online
from bench.simulate.steps import StepOptions, busiest, replica_of, rise
from unfreeze.contract.errors import OptionsError

COSTS = Costs(decode_s=(0.1,), infer_s=(0.1, 0.2, 0.3, 0.4), image_bytes=1e5)  # 10 requests a second on two cores
REPLICA = replica_of(2, max_queue=16)


def _run(options: ClusterOptions, rate: float, seconds: float) -> tuple[Cluster, list[Call], int]:
    env = simpy.Environment()
    cluster = Cluster(env, COSTS, options)
    load = LoadGenerator(env, COSTS, cluster.handle)
    times = list(poisson(constant(rate), rate, seconds))
    env.process(load.open_loop(iter(times)))
    env.run(seconds + 60)
    return cluster, load.calls, len(times)


def test_requests_go_to_the_replicas_in_turn() -> None:
    """Three replicas do three times the work of one."""
    cluster, calls, sent = _run(ClusterOptions(server=REPLICA, replicas=3), 15, 60)
    assert len(calls) == sent
    assert {call.status for call in calls} == {"OK"}
    work = [server.cores.used_s() for server in cluster.serving]
    assert work == pytest.approx([sent * 0.2 / 3] * 3, rel=0.01)


def test_lost_requests_are_repeated() -> None:
    """Without retries a crash costs requests; with them almost none. Each is answered once, and replicas return."""
    lost = {}
    for retries in (0, 4):
        options = ClusterOptions(
            server=REPLICA, replicas=4, mean_life_s=30, startup_s=10, detect_s=2, retries=retries, retry_s=0.2
        )
        cluster, calls, sent = _run(options, 12, 200)
        assert len(calls) == sent
        assert cluster.crashes > 10
        assert len(cluster.serving) >= 2
        lost[retries] = sum(call.status != "OK" for call in calls)
    assert lost[0] > 20
    assert lost[4] < 0.1 * lost[0]


def _scaled(options: AutoscalerOptions, rate: float, seconds: float) -> Autoscaler:
    env = simpy.Environment()
    cluster = Cluster(env, COSTS, ClusterOptions(server=REPLICA, replicas=2, startup_s=20))
    load = LoadGenerator(env, COSTS, cluster.handle, timeout_s=2)
    env.process(load.open_loop(poisson(constant(rate), rate, seconds)))
    scaler = Autoscaler(env, cluster, options)
    env.run(seconds)
    return scaler


def test_the_rate_of_requests_gives_the_number_at_once() -> None:
    """60 requests a second for a target of 6 are 10 replicas, within the doubling of the first decisions."""
    scaler = _scaled(AutoscalerOptions(metric="rate", target=6, largest=50), 60, 200)
    assert scaler.history[-1][1] in {10, 11}
    assert max(count for _, count in scaler.history) <= 11


def test_cpu_is_bounded_and_the_queue_is_not() -> None:
    """At three times the capacity, CPU asks for 1/target as many replicas; the queue for all that are allowed."""
    cpu = _scaled(AutoscalerOptions(metric="cpu", target=0.5, largest=40), 60, 80)
    pending = _scaled(AutoscalerOptions(metric="pending", target=1, largest=40), 60, 80)
    assert cpu.history[-1][1] == 4
    assert pending.history[-1][1] >= 12


def test_growth_is_limited() -> None:
    """Doubling in a minute means at most 2, then 4, then 8 replicas are started."""
    options = AutoscalerOptions(metric="pending", target=1, largest=40, least_growth=0, growth_s=60)
    scaler = _scaled(options, 60, 130)
    assert max(count for at, count in scaler.history if at < 90) == 4
    assert scaler.history[-1][1] == 8


def test_replicas_shrink_after_the_stabilization_window() -> None:
    """At a low load, nothing is taken away for five minutes, then what is too much."""
    env = simpy.Environment()
    cluster = Cluster(env, COSTS, ClusterOptions(server=REPLICA, replicas=6))
    Autoscaler(env, cluster, AutoscalerOptions(metric="cpu", target=0.5, largest=10))
    load = LoadGenerator(env, COSTS, cluster.handle)
    env.process(load.open_loop(poisson(constant(8), 8, 400)))
    env.run(280)
    assert len(cluster.serving) == 6
    env.run(400)
    assert len(cluster.serving) in {2, 3}


def test_a_rise_is_survived_with_replicas() -> None:
    """Without a scaler a threefold load fails for ever; with one it recovers."""
    load = StepOptions(before=0.5, at_s=20, seconds=240)
    options = ClusterOptions(server=REPLICA, replicas=2, startup_s=20)
    none = rise(COSTS, options, None, load)
    scaled = rise(COSTS, options, AutoscalerOptions(metric="rate", target=6, largest=20), load)
    assert none["recovered_s"] > 210
    assert scaled["recovered_s"] < 90
    assert scaled["failed"] < 0.5 * none["failed"]


def test_the_busiest_load_is_below_the_capacity() -> None:
    """And a looser limit allows at least as much."""
    tight, _ = busiest(COSTS, replica_of(2), 700, 60, replicas=1)
    loose, p99_ms = busiest(COSTS, replica_of(2), 3000, 60, replicas=1)
    assert 0 < tight <= loose < 10
    assert p99_ms <= 3000


def test_sizes_follow_from_the_assumptions() -> None:
    """A day's mean, its peak, the zone that may be lost, bytes and price."""
    options = SizingOptions(peak_to_mean=2, zones=3, replica_cores=2, machine_cores=8, core_hour=0.5)
    online = size_online(COSTS, 5.0, 86_400 * 10, options)
    assert (online["mean_per_s"], online["peak_per_s"]) == (10, 20)
    assert (online["replicas"], online["cores"], online["machines"]) == (6, 12, 3)  # 4 at the peak, 2 in each zone
    assert online["jpeg_gbit_s"] == pytest.approx(20 * 1e5 * 8 / 1e9)
    assert online["cost_a_day"] == 24 * 12 * 0.5
    assert replicas_for(20, 5, replace(options, zones=1)) == 4
    batch = size_batch(COSTS, 86_400 * 9, replace(options, batch_utilization=0.9, result_bytes=100))
    assert batch["cores"] == 2  # 9 a second of 0.2 s on cores that are 90 % busy
    assert batch["parquet_gb_a_day"] == pytest.approx(86_400 * 9 * 100 / 1e9)


def test_front_ends_relieve_the_event_loop() -> None:
    """One for 60 % of an event loop."""
    costs = replace(COSTS, loop_s=0.02)
    assert [frontends_for(costs, cores) for cores in (2, 6, 7, 14)] == [1, 1, 2, 3]


def test_costs_are_files(tmp_path: Path) -> None:
    """What is written is read; anything else is an error that says what is expected."""
    path = tmp_path / "costs.json"
    write_costs(path, COSTS, {"machine": "2 cores"})
    costs, document = read_costs(path)
    assert costs == COSTS
    assert document["machine"] == "2 cores"
    for text in ("[]", "{}", '{"costs": {"decode": 1}}', '{"costs": [1]}', "no JSON"):
        path.write_text(text)
        with pytest.raises(OptionsError, match=r"expected a file of `python -m bench.simulate validate"):
            read_costs(path)
    with pytest.raises(OptionsError, match="holds no costs"):
        read_costs(tmp_path / "none")
