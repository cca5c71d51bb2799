"""The Pareto front of accuracy and latency."""

from collections.abc import Mapping


def pareto_front(latencies: Mapping[str, float], accuracies: Mapping[str, float]) -> tuple[str, ...]:
    """Return the backbones that no other one is better than in both respects, the fastest first.

    Args:
        latencies: by backbone; lower is better.
        accuracies: of the same backbones; higher is better. Of two that are equal in both respects, both are returned.
    """
    return tuple(
        name
        for name in sorted(latencies, key=lambda one: (latencies[one], -accuracies[one]))
        if not any(_is_better(other, name, latencies, accuracies) for other in latencies)
    )


def _is_better(one: str, other: str, latencies: Mapping[str, float], accuracies: Mapping[str, float]) -> bool:
    is_no_worse = latencies[one] <= latencies[other] and accuracies[one] >= accuracies[other]
    return is_no_worse and (latencies[one] < latencies[other] or accuracies[one] > accuracies[other])
