"""A horizontal pod autoscaler, as Kubernetes documents it, on queue length or CPU."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import simpy

from bench.simulate.cluster import Cluster


@dataclass(frozen=True, kw_only=True)
class AutoscalerOptions:
    """What is watched, and how fast the answer comes. Defaults are those of Kubernetes' HorizontalPodAutoscaler.

    Args:
        metric: "pending" is the number of images in a replica; "cpu" is the share of its cores in use.
        target: mean value for each replica.
        largest: upper bound of replicas.
        period_s: time between two decisions.
        metric_age_s: age of the metric when a decision is made: scrape, rule and adapter.
        window_s: the metric is its mean over this time.
        tolerance: relative deviation that changes nothing.
        growth: replicas may grow to this multiple in a period, or by `least_growth` if that is more.
        least_growth: replicas that may always be added in a period.
        stabilization_s: replicas shrink to the highest number wanted during this time.
    """

    metric: Literal["pending", "cpu"]
    target: float
    largest: int
    period_s: float = 15.0
    metric_age_s: float = 15.0
    window_s: float = 30.0
    tolerance: float = 0.1
    growth: float = 2.0
    least_growth: int = 4
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
        self._wanted: deque[tuple[float, int]] = deque()
        self.history: list[tuple[float, int]] = []
        env.process(self._sample())
        env.process(self._decide())

    def _sample(self) -> Iterator[simpy.Event]:
        """Record the metric once a second."""
        used_s = self._cluster.used_s()
        while True:
            yield self._env.timeout(1.0)
            serving = max(1, len(self._cluster.serving))
            if self._options.metric == "pending":
                value = self._cluster.pending / serving
            else:
                before, used_s = used_s, self._cluster.used_s()
                value = (used_s - before) / (serving * self._cluster.options.server.cores)
            self._samples.append((self._env.now, value))

    def _decide(self) -> Iterator[simpy.Event]:
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
        """Apply the documented formula and limits.

        As in Kubernetes, the ratio applies to the replicas that serve, so that those still starting are not counted
        twice; a decision never takes back what is starting before the stabilization window has passed.
        """
        options, now, wanted = self._options, self._env.now, self._cluster.wanted
        ratio = value / options.target
        serving = len(self._cluster.serving)
        raw = wanted if abs(ratio - 1) <= options.tolerance else math.ceil(serving * ratio)
        most = max(math.floor(options.growth * wanted), wanted + options.least_growth)
        raw = min(max(1, raw), options.largest, most)
        self._wanted.append((now, raw))
        while self._wanted[0][0] < now - options.stabilization_s:
            self._wanted.popleft()
        stable = max(number for _, number in self._wanted)
        return raw if raw >= wanted else min(wanted, stable)
