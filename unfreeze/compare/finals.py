"""Evaluate the finalists on all images: the probe, and training of the last blocks on the same folds."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unfreeze.compare.context import CompareContext
from unfreeze.compare.evaluation import extract, fit, restored, scores_of, stored_scores, warm_up
from unfreeze.compare.loaded import LoadedBackbone
from unfreeze.compare.scores import Scores
from unfreeze.tune.linear.probe import Probe
from unfreeze.tune.recipes.recipe import GENTLE_LEARNING_RATE, SearchScope
from unfreeze.tune.recipes.registry import LAST_BLOCKS, PROBE, block_recipe
from unfreeze.tune.selection.candidate import Candidate
from unfreeze.tune.selection.request import middle_cut
from unfreeze.tune.selection.trials import SearchInputs, Trials

_FEW_IMAGES = 500  # up to which the last quarter of the blocks is trained, else the last half


@dataclass(frozen=True, kw_only=True)
class FinalScores:
    """Scores of a finalist on all images.

    Args:
        probe: of the probe.
        tail: of the last blocks after a short training; None if they were not trained.
        tail_name: describes what was trained.
        tail_is_better: whether the tail leads the probe by more than a standard error.
        seconds: per image, of the pass over the images.
    """

    probe: Scores
    tail: Scores | None = None
    tail_name: str = ""
    tail_is_better: bool = False
    seconds: float

    @property
    def best(self) -> Scores:
        """Scores of the better head."""
        return self.tail if self.tail is not None and self.tail_is_better else self.probe

    @property
    def head(self) -> str:
        """Name of the better head."""
        return self.tail_name if self.tail is not None and self.tail_is_better else PROBE


@dataclass(kw_only=True)
class Finalist:
    """The evaluation of one backbone on all images; results of earlier comparisons are reused.

    Args:
        context: state of the comparison.
        backbone: the backbone.
    """

    context: CompareContext
    backbone: LoadedBackbone
    _trials: Trials | None = None
    _probe: Probe | None = None
    _seconds: float = 0.0

    def evaluate_probe(self) -> FinalScores:
        """Cross-validate the probe.

        Raises:
            UnfreezeError: the features cannot be computed.
        """
        context, count = self.context, len(self.context.sample.images)
        key = context.key(self.backbone, images="all")
        if (stored := context.stored.load("probe", key)) is not None:
            return FinalScores(probe=restored(context, stored, count), seconds=stored["seconds"])
        trials, probe = self._prepared(), Candidate.linear(PROBE)
        trials.run(probe)
        found = FinalScores(probe=scores_of(context, trials.correct(probe)), seconds=self._seconds)
        context.stored.store("probe", key, stored_scores(found.probe) | {"seconds": found.seconds})
        return found

    def evaluate_tail(self, found: FinalScores) -> FinalScores:
        """Train the last blocks for a short trial on the same folds.

        Args:
            found: scores of the probe.
        """
        context, count = self.context, len(self.context.sample.images)
        key = context.key(self.backbone, head=LAST_BLOCKS)
        stored: Mapping[str, Any] | None = context.stored.load("tail", key)
        if stored is None:
            stored = self._try_tail()
            context.stored.store("tail", key, stored)
        return FinalScores(
            probe=found.probe,
            tail=restored(context, stored, count) if stored["correct"] else None,
            tail_name=str(stored["name"]),
            tail_is_better=bool(stored["is_better"]),
            seconds=found.seconds,
        )

    def fitted_probe(self) -> Probe:
        """Fit the probe on all images."""
        return self._probe or self._prepared().inputs.probe

    def free_activations(self) -> None:
        """Free the cached activations, and keep the fitted probe."""
        if self._trials is not None:
            self._probe, self._trials = self._trials.inputs.probe, None

    def _try_tail(self) -> dict[str, object]:
        trials, probe = self._prepared(), Candidate.linear(PROBE)
        names = self.backbone.network.block_names
        scope = SearchScope(few_images=len(self.context.sample.images) < _FEW_IMAGES, out_of_domain=False)
        cut = block_recipe(LAST_BLOCKS).search_cuts(names, scope)[0]
        tail = Candidate(LAST_BLOCKS, cut, self.context.tuning.learning_rate or GENTLE_LEARNING_RATE)
        trials.run(probe)
        trials.run(tail, probe)
        if tail in trials.diverged:
            return {"correct": "", "name": f"{LAST_BLOCKS} from {cut} diverged", "is_better": False}
        scores = scores_of(self.context, trials.correct(tail))
        return stored_scores(scores) | {"name": f"{LAST_BLOCKS} from {cut}", "is_better": trials.lead(tail, probe) > 1}

    def _prepared(self) -> Trials:
        """Run the backbone over all images once, and fit the probe that trials start from."""
        if self._trials is not None:
            return self._trials
        context, network = self.context, self.backbone.network
        images = context.sample.images
        warm_up(self.backbone, context.precision)
        started = time.perf_counter()
        extracted = extract(context, self.backbone, images, middle_cut(network))
        self._seconds = (time.perf_counter() - started) / len(images)
        self._trials = Trials(
            inputs=SearchInputs(
                network=network,
                extracted=extracted,
                probe=fit(context, extracted.features, extracted.labels),
                options=context.tuning,
                precision=context.precision,
                placement=context.placement,
                reporter=context.reporter,
                allows_flips=lambda: context.tuning.flip == "yes",
            ),
            folds=context.sample.folds(len(images)),
        )
        return self._trials
