"""Recommend a backbone, in a sentence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unfreeze.compare.result import Row
from unfreeze.tune.evaluation.accuracy import METRIC_NAMES, Estimate
from unfreeze.tune.options import Metric

_ONE_ERROR = 1.0


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """A recommended backbone.

    Args:
        backbone: the row's name; None if there is none to recommend.
        reason: one sentence.
    """

    backbone: str | None
    reason: str


def recommend(
    rows: Sequence[Row], lead: Callable[[str, str], float], metric: Metric, budget_ms: float | None
) -> Recommendation:
    """Recommend the fastest backbone that is not clearly worse than the most accurate one within the budget.

    This is the one-standard-error rule (Breiman et al. 1984) with the standard error of the paired difference.

    Args:
        rows: of all backbones.
        lead: returns by how much one compared backbone is better than another, in standard errors.
        metric: what backbones are compared by.
        budget_ms: largest acceptable latency of one image; None if there is none.
    """
    known = {row.backbone: row.compared_by(metric) for row in rows if row.status == "compared"}
    values = {name: value for name, value in known.items() if value is not None}
    compared = sorted((row for row in rows if row.backbone in values), key=_latency)
    if not compared:
        return Recommendation(backbone=None, reason="No backbone could be compared; the table says why.")
    allowed = [row for row in compared if budget_ms is None or _latency(row) <= budget_ms]
    if not allowed:
        return Recommendation(
            backbone=None,
            reason=f"No backbone answers within {budget_ms:g} ms; the fastest that was compared, "
            f"{compared[0].backbone}, takes {_latency(compared[0]):.1f} ms.",
        )
    best = max(allowed, key=lambda row: values[row.backbone][0])
    chosen = next(row for row in allowed if row is best or lead(best.backbone, row.backbone) <= _ONE_ERROR)
    return Recommendation(backbone=chosen.backbone, reason=_sentence(chosen, best, allowed, values, metric, budget_ms))


def _sentence(
    chosen: Row,
    best: Row,
    allowed: Sequence[Row],
    values: dict[str, Estimate],
    metric: Metric,
    budget_ms: float | None,
) -> str:
    value, error = values[chosen.backbone]
    within = "" if budget_ms is None else f" within {budget_ms:g} ms"
    start = (
        f"Take {chosen.backbone} ({chosen.head}, {chosen.precision}): {METRIC_NAMES[metric]} {value:.3f} ± {error:.3f} "
        f"at {_latency(chosen):.1f} ms per image"
    )
    if len(allowed) == 1:
        return f"{start}; it is the only one{within or ' that was compared'}."
    if chosen is best:
        rank = " and the fastest" if chosen is allowed[0] else ""
        rest = "" if rank else ", and every faster one is clearly less accurate"
        return f"{start}; it is the most accurate{rank}{within}{rest}."
    return (
        f"{start}; the most accurate{within}, {best.backbone} with {values[best.backbone][0]:.3f}, is not clearly "
        f"better (at most one standard error of the difference) and takes {_latency(best) / _latency(chosen):.1f} "
        "times as long."
    )


def _latency(row: Row) -> float:
    return float("inf") if row.latency_ms is None else row.latency_ms
