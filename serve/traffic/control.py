"""The traffic of all models: what was set, since when, what is known since then, and what a rule makes of it."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, runtime_checkable

from unfreeze.contract.traffic import Decision, TrafficSettings
from unfreeze.serve.scheduling.statistics import Statistics
from unfreeze.serve.traffic.counts import RequestCounts, ShadowCounts
from unfreeze.serve.traffic.routing import Route
from unfreeze.serve.traffic.rule import Trial, Verdict, judge

_log = logging.getLogger(__name__)
_NEWEST = TrafficSettings()


@runtime_checkable
class CountedModel(Protocol):
    """A loaded version."""

    name: str
    version: str

    @property
    def statistics(self) -> dict[bool, Statistics]:
        """Its counters."""


@dataclass(kw_only=True)
class _Traffic:
    """The traffic of one model.

    Args:
        settings: in force.
        stored: whether they are in the model's file.
        since: when they were set, on the clock of `time.monotonic`.
        requests: counters of each version at that time.
        shadows: counters of each version as a shadow, at that time.
        missing: versions with a share that are not loaded, as the log has them.
    """

    settings: TrafficSettings
    stored: bool
    since: float
    requests: dict[str, RequestCounts]
    shadows: dict[str, ShadowCounts]
    missing: frozenset[str] = field(default=frozenset())


class TrafficControl:
    """Traffic by name of the model; use it in one event loop.

    Args:
        loaded: returns the loaded versions of a model.
        shadows: counters of shadows, by model and version.

    Attributes:
        statistics: returns the counters of a version, over all processes; replaced where there are several.
        decisions: of rules, by model, version and action.
    """

    def __init__(
        self, loaded: Callable[[str], Mapping[int, CountedModel]], shadows: Mapping[tuple[str, str], ShadowCounts]
    ) -> None:
        self._loaded, self._shadows = loaded, shadows
        self._traffic: dict[str, _Traffic] = {}
        self.statistics: Callable[[CountedModel], Iterable[Statistics]] = lambda model: model.statistics.values()
        self.decisions: Counter[tuple[str, str, str]] = Counter()

    @property
    def has_rules(self) -> bool:
        """Whether there is anything to decide."""
        return any(one.settings.rule is not None for one in self._traffic.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The models whose traffic was set."""
        return tuple(self._traffic)

    def settings(self, name: str) -> TrafficSettings:
        """Return what is in force for a model."""
        return self._traffic[name].settings if name in self._traffic else _NEWEST

    def set(self, name: str, settings: TrafficSettings | None, *, stored: bool) -> None:
        """Put settings in force, and begin to count.

        Args:
            name: of the model.
            settings: None for none.
            stored: whether they are in the model's file.
        """
        if settings is None:
            self._traffic.pop(name, None)
            return
        self._traffic[name] = _Traffic(
            settings=settings,
            stored=stored,
            since=time.monotonic(),
            requests={version: self._requests(model) for version, model in self._versions(name).items()},
            shadows={version: counts.copy() for (of, version), counts in self._shadows.items() if of == name},
        )

    def route(self, name: str) -> Route | None:
        """Divide the requests of a model among its loaded versions; None for its newest one."""
        traffic = self._traffic.get(name)
        loaded = self._loaded(name)
        if traffic is None or not loaded:
            return None
        shares = traffic.settings.split | traffic.settings.shadow
        missing = frozenset(one for one, share in shares.items() if share and int(one) not in loaded)
        for version in sorted(missing - traffic.missing):
            _log.warning("model %s version %s is not loaded: its share of the traffic goes to others", name, version)
        traffic.missing = missing
        return Route.create(name, traffic.settings, loaded)

    def decide(self, name: str) -> TrafficSettings | None:
        """Return what a model's rule wants to be in force instead; None if it is content."""
        traffic, route = self._traffic.get(name), self.route(name)
        if traffic is None or route is None or traffic.settings.rule is None:
            return None
        stable = str(route.stable)
        counts = self._since(name, traffic)
        for version in traffic.settings.canaries:
            trial = Trial(
                stable=counts.get(stable, RequestCounts()),
                canary=counts.get(version, RequestCounts()),
                shadow=self._shadow_since(name, version, traffic),
            )
            verdict = judge(traffic.settings.rule, trial)
            if verdict is not None and version != stable:
                return _decided(traffic.settings, version, stable, verdict)
        return None

    def report(self, name: str) -> dict[str, Any]:
        """Describe the traffic of a model, with the names of the fields of the message `Traffic`."""
        traffic, route, loaded = self._traffic.get(name), self.route(name), self._versions(name)
        newest = max(loaded, key=int, default="")
        counts = self._since(name, traffic)
        settings = self.settings(name)
        document = settings.to_document() | {
            "model": name,
            "stable": newest if route is None else str(route.stable),
            "stored": traffic is not None and traffic.stored,
            "seconds": 0.0 if traffic is None else time.monotonic() - traffic.since,
        }
        named = sorted({*loaded, *settings.split, *settings.shadow}, key=int)
        document["versions"] = [
            {
                "version": version,
                "loaded": version in loaded,
                "share": float(version == newest) if route is None else route.share(int(version)),
                **_numbers(counts.get(version, RequestCounts())),
                "shadow": {
                    "share": route.sampled if route is not None and str(route.shadow) == version else 0.0,
                    **_shadow_numbers(self._shadow_since(name, version, traffic)),
                },
            }
            for version in named
        ]
        return document

    def _versions(self, name: str) -> dict[str, CountedModel]:
        return {str(number): model for number, model in self._loaded(name).items()}

    def _requests(self, model: CountedModel) -> RequestCounts:
        return RequestCounts.of(self.statistics(model))

    def _since(self, name: str, traffic: _Traffic | None) -> dict[str, RequestCounts]:
        before = {} if traffic is None else traffic.requests
        return {
            version: self._requests(model).since(before.get(version, RequestCounts()))
            for version, model in self._versions(name).items()
        }

    def _shadow_since(self, name: str, version: str, traffic: _Traffic | None) -> ShadowCounts:
        before = None if traffic is None else traffic.shadows.get(version)
        return self._shadows.get((name, version), ShadowCounts()).since(before or ShadowCounts())


def _decided(settings: TrafficSettings, version: str, stable: str, verdict: Verdict) -> TrafficSettings:
    decision = Decision(
        action="taken back" if verdict.is_worse else "promoted",
        version=version,
        reason=verdict.reason,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return settings.taken_back(decision, stable) if verdict.is_worse else settings.promoted(decision)


def _numbers(counts: RequestCounts) -> dict[str, Any]:
    numbers = {"requests": counts.requests, "errors": counts.errors, "images": counts.images}
    return numbers | _finite({"p99_ms": 1000 * counts.latency_s(0.99)})


def _shadow_numbers(counts: ShadowCounts) -> dict[str, Any]:
    numbers = {name: value for name, value in vars(counts).items() if name != "difference"}
    return numbers | _finite({"disagreement": counts.disagreement, "mean_difference": counts.mean_difference})


def _finite(numbers: dict[str, float]) -> dict[str, float]:
    """Leave out what is not known."""
    return {name: value for name, value in numbers.items() if not math.isnan(value)}
