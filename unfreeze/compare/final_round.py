"""The last round: the finalists on all images, from the fastest on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from unfreeze.compare.context import CompareContext
from unfreeze.compare.finals import Finalist, FinalScores
from unfreeze.compare.halving import Halving
from unfreeze.compare.latency import failure
from unfreeze.compare.loaded import LoadedBackbone
from unfreeze.compare.scores import lead
from unfreeze.compare.table import Outcome
from unfreeze.contract.errors import UnfreezeError

_TAILS = 3
_CLEARLY = 2.0  # standard errors of the paired difference


@dataclass(kw_only=True)
class FinalRound:
    """Evaluates finalists on all images.

    Each competes only with faster ones, so from the fastest on it is known at once whose last blocks are worth a trial,
    and only one backbone's activations are kept at a time.

    Args:
        context: state of the comparison.
        outcome: receives the scores.
        halving: the rounds before.
        trained: the finalists whose last blocks were trained, by label.
    """

    context: CompareContext
    outcome: Outcome
    halving: Halving
    trained: dict[str, Finalist] = field(default_factory=dict)

    def run(self, finalists: Mapping[str, LoadedBackbone]) -> None:
        """Evaluate finalists, the fastest first."""
        names = list(finalists)
        worth = names if len(names) <= _TAILS else self.halving.thinned(names, lambda kept: len(kept) <= _TAILS)
        for label, backbone in finalists.items():
            try:
                self.outcome.final[label] = self._evaluate(label, backbone, with_tail=label in worth)
            except UnfreezeError as error:
                self.outcome.failed[label] = failure(error)
                self.trained.pop(label, None)
        self.outcome.relative_cost = self._relative_cost()

    def _evaluate(self, label: str, backbone: LoadedBackbone, *, with_tail: bool) -> FinalScores:
        finalist = Finalist(context=self.context, backbone=backbone)
        found = finalist.evaluate_probe()
        faster = [scores.probe for scores in self.outcome.final.values()]
        if not with_tail or any(lead(other, found.probe) > _CLEARLY for other in faster):
            return found
        self.trained[label] = finalist
        found = finalist.evaluate_tail(found)
        finalist.free_activations()
        return found

    def _relative_cost(self) -> float:
        """Return the cost of all passes, as a multiple of what the slowest backbone costs on all images."""
        seconds = {label: result.seconds for label, result in self.halving.evaluated.items()}
        seconds |= {label: scores.seconds for label, scores in self.outcome.final.items()}
        if not seconds:
            return 0.0
        images = self.halving.images
        passes = {
            label: self.halving.passes.get(label, 0) + images * (label in self.outcome.final) for label in seconds
        }
        return sum(seconds[label] * count for label, count in passes.items()) / (max(seconds.values()) * images)
