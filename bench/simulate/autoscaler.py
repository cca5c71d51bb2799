"""A horizontal pod autoscaler, as Kubernetes documents it, on queue length or CPU."""

import math
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Literal

import simpy

from bench.simulate.cluster import Cluster


@dataclass(frozen=True, kw_only=True)
class AutoscalerOptions:
    """What is watched, and how fast the answer comes. Defaults are those of Kubernetes' HorizontalPodAutoscaler.

    Args:
        metric: "pending" is the number of images in a replica; "cpu" is the share of its cores in use; "rate" is the
            number of requests a second that a replica gets, refused ones included.
        target: mean value for each replica.
        largest: upper bound of replicas.
        period_s: time between two decisions.
        metric_age_s: age of the metric when a decision is made: scrape, rule and adapter.
        window_s: the metric is its mean over this time.
        tolerance: relative deviation that changes nothing.
        growth: replicas may grow to this multiple in `growth_s`, or by `least_growth` if that is more.
        least_growth: replicas that may always be added in `growth_s`.
        growth_s: time that limits growth.
        stabilization_s: replicas shrink to the highest number wanted during this time.
    """

    metric: Literal["pending", "cpu", "rate"]
    target: float
    largest: int
    period_s: float = 15.0
    metric_age_s: float = 15.0
    window_s: float = 30.0
    tolerance: float = 0.1
    growth: float = 2.0
    least_growth: int = 4
    growth_s: float = 15.0
    stabilization_s: float = 300.0


class Autoscaler:
    """Changes the number of replicas of a cluster.

    Args:
        env: the simulation.
        cluster: the replicas.
        options: what is watched.

    Attributes:
        history: times of the decisions, and numbers of replicas that serve.
    """

    def __init__(self, env: simpy.Environment, cluster: Cluster, options: AutoscalerOptions) -> None:
        self._env, self._cluster, self._options = env, cluster, options
        self._samples: deque[tuple[float, float]] = deque()
        self._recommended = deque([(env.now, cluster.wanted)])
        self._wanted: deque[tuple[float, int]] = deque()
        self.history: list[tuple[float, int]] = []
        env.process(self._sample())
        env.process(self._decide())

    def _sample(self) -> Generator[simpy.Event, Any, None]:
        """Record the metric of all replicas together, once a second."""
        used_s, attempts = 0.0, 0
        while True:
            yield self._env.timeout(1.0)
            cluster, before_s, before = self._cluster, used_s, attempts
            used_s, attempts = cluster.used_s(), cluster.attempts
            value = {
                "pending": float(cluster.pending),
                "cpu": (used_s - before_s) / cluster.options.server.cores,
                "rate": float(attempts - before),
            }[self._options.metric]
            self._samples.append((self._env.now, value))

    def _decide(self) -> Generator[simpy.Event, Any, None]:
        while True:
            yield self._env.timeout(self._options.period_s)
            self.history.append((self._env.now, len(self._cluster.serving)))
            if (value := self._metric()) is not None:
                self._cluster.scale(self._desired(value))

    def _metric(self) -> float | None:
        latest = self._env.now - self._options.metric_age_s
        while self._samples and self._samples[0][0] <= latest - self._options.window_s:
            self._samples.popleft()
        values = [value for at, value in self._samples if at <= latest]
        return sum(values) / len(values) if values else None

    def _desired(self, value: float) -> int:
        """Apply the documented formula and limits: the sum of the metric by the target for one replica."""
        options, now, wanted = self._options, self._env.now, self._cluster.wanted
        ratio = value / options.target / max(1, len(self._cluster.serving))
        raw = wanted if abs(ratio - 1) <= options.tolerance else math.ceil(value / options.target)
        self._wanted.append((now, wanted))
        _forget(self._wanted, now - options.growth_s)
        before = min(number for _, number in self._wanted)
        raw = min(max(1, raw), options.largest, max(math.floor(options.growth * before), before + options.least_growth))
        self._recommended.append((now, raw))
        _forget(self._recommended, now - options.stabilization_s)
        return raw if raw >= wanted else min(wanted, max(number for _, number in self._recommended))


def _forget(entries: deque[tuple[float, int]], before: float) -> None:
    while entries[0][0] <= before:
        entries.popleft()
