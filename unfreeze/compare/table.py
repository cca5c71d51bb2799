"""Build the table of a comparison from what its stages found."""

from dataclasses import dataclass, field, replace

from unfreeze.compare.finals import FinalScores
from unfreeze.compare.latency import Served
from unfreeze.compare.loaded import LoadedBackbone
from unfreeze.compare.options import BackboneChoice, CompareOptions
from unfreeze.compare.pareto import pareto_front
from unfreeze.compare.result import Row
from unfreeze.compare.scores import Scores, lead
from unfreeze.tune.recipes.registry import PROBE

_UNTRIED = "only the probe and fp32 were tried"


@dataclass(kw_only=True)
class Outcome:
    """What the stages of a comparison found, by the label of the backbone.

    Args:
        backbones: those that were loaded.
        served: latency of the exported models.
        subset: scores of those that took part in successive halving, on the images of their last rung.
        final: scores of the finalists on all images.
        dropped: why backbones are not finalists.
        failed: why backbones failed.
        relative_cost: of all passes, as a multiple of what the slowest backbone costs on all images.
    """

    backbones: dict[str, LoadedBackbone] = field(default_factory=dict)
    served: dict[str, Served] = field(default_factory=dict)
    subset: dict[str, Scores] = field(default_factory=dict)
    final: dict[str, FinalScores] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    relative_cost: float = 0.0

    def lead(self, one: str, other: str) -> float:
        """Return by how much one finalist is better than another, in standard errors."""
        return lead(self.final[one].best, self.final[other].best)


def build_rows(outcome: Outcome, options: CompareOptions) -> tuple[Row, ...]:
    """Return one row per backbone: compared ones from the fastest on, then dropped and failed ones."""
    rows = [_row(choice, outcome, options.budget_ms) for choice in options.choices]
    compared = [row for row in rows if row.status == "compared"]
    front = pareto_front(
        {row.backbone: row.latency_ms or 0.0 for row in compared},
        {row.backbone: outcome.final[row.backbone].best.compared.mean for row in compared},
    )
    order = {"compared": 0, "dropped": 1, "failed": 2}
    rows.sort(key=lambda row: (order[row.status], row.latency_ms or 0.0))
    return tuple(replace(row, on_front=row.backbone in front) for row in rows)


def _row(choice: BackboneChoice, outcome: Outcome, budget_ms: float | None) -> Row:
    label = choice.label
    row = Row(backbone=label, weights=choice.weights, status="failed", note=outcome.failed.get(label, ""))
    if label in outcome.backbones:
        pretrained = outcome.backbones[label].pretrained
        row = replace(row, weights=pretrained.weights, image_size=pretrained.spec.shape[:2])
    if label in outcome.served:
        row = _with_latency(row, outcome.served[label], budget_ms)
    if label in outcome.failed:
        return row
    if label in outcome.final:
        final = outcome.final[label]
        probe = final.probe.accuracy if final.head != PROBE else None
        row = replace(row, status="compared", probe_accuracy=probe, note=outcome.served[label].why or _UNTRIED)
        return _with_scores(row, final.best, final.head)
    row = replace(row, status="dropped", note=outcome.dropped[label])
    return _with_scores(row, outcome.subset[label], PROBE) if label in outcome.subset else row


def _with_latency(row: Row, served: Served, budget_ms: float | None) -> Row:
    return replace(
        row,
        precision=served.precision,
        latency_ms=served.latency_ms,
        images_per_second=served.images_per_second,
        megabytes=served.megabytes,
        parameters=served.parameters,
        within_budget=None if budget_ms is None else served.latency_ms <= budget_ms,
    )


def _with_scores(row: Row, scores: Scores, head: str) -> Row:
    found = scores.accuracies
    return replace(
        row,
        head=head,
        images=len(scores.correct),
        accuracy=found["accuracy"],
        standard_error=found["standard_error"],
        balanced_accuracy=found["balanced_accuracy"],
        balanced_standard_error=found["balanced_standard_error"],
    )
