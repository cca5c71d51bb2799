"""Compare backbones: the public function."""

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from unfreeze.compare.context import CompareContext
from unfreeze.compare.evaluation import SubsetEvaluator
from unfreeze.compare.final_round import FinalRound
from unfreeze.compare.halving import Evaluated, Halving
from unfreeze.compare.latency import failure, float_latencies
from unfreeze.compare.loaded import LoadedBackbone, load_backbone
from unfreeze.compare.machine import describe_machine
from unfreeze.compare.options import CompareOptions
from unfreeze.compare.quantized import best_precisions
from unfreeze.compare.recommendation import recommend
from unfreeze.compare.result import Comparison
from unfreeze.compare.sample import read_sample
from unfreeze.compare.stored import StoredResults, comparisons_folder
from unfreeze.compare.table import Outcome, build_rows
from unfreeze.contract.errors import UnfreezeError
from unfreeze.contract.reporting import Reporter, Silent
from unfreeze.tune.device.precision import choose_precision
from unfreeze.tune.device.threads import limited_threads
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.store.store import FeatureStore

_LARGEST_SPEEDUP = 3.0  # of int8 over fp32: a backbone that is slower than this times the budget cannot meet it


def compare_backbones(
    data: str | os.PathLike[str],
    options: CompareOptions | None = None,
    tuning: TuneOptions | None = None,
    reporter: Reporter | None = None,
) -> Comparison:
    """Compare backbones on labeled images and on this machine, and recommend one.

    Accuracy is cross-validated on the training images: of the probe, and for up to three of the best also after a short
    training of the last blocks. Latency is that of the exported model in ONNX Runtime. Results are stored in the
    user's cache folder, and reused as long as nothing that they depend on changes.

    Args:
        data: folder of labeled images, or a CSV file, as for `fine_tune`.
        options: which backbones, and the latency budget; defaults if None.
        tuning: how backbones are evaluated; its backbone, weights, recipe and cut do not matter.
        reporter: shows progress; nothing is shown if None.

    Returns:
        A table, and the recommendation. A backbone that fails is a row with the reason.

    Raises:
        DataError: the images cannot be used.
        UnfreezeError: the device is not available.
    """
    started = time.monotonic()
    options, tuning, reporter = options or CompareOptions(), tuning or TuneOptions(), reporter or Silent()
    precision = choose_precision(tuning.device, tuning.precision)
    with limited_threads(), precision.kernels(), ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="unfreeze-compare-"))
        store = stack.enter_context(FeatureStore(round(tuning.store_gb * 1e9), reporter=reporter))
        context = CompareContext(
            tuning=tuning,
            reporter=reporter,
            sample=read_sample(data, options.images, tuning, reporter, store),
            precision=precision,
            folder=Path(folder),
            stored=StoredResults(folder=comparisons_folder(), fresh=options.fresh),
            store=store,
        )
        outcome = _compare(context, options)
    rows = build_rows(outcome, options)
    recommendation = recommend(rows, outcome.lead, context.metric, options.budget_ms)
    chosen = next((one for one in options.choices if one.label == recommendation.backbone), None)
    return Comparison(
        data=str(data),
        images=len(context.sample.images),
        classes=context.sample.classes,
        metric=context.metric,
        budget_ms=options.budget_ms,
        rows=rows,
        recommended=None if chosen is None else (chosen.backbone, chosen.weights),
        recommended_row=recommendation.backbone,
        reason=recommendation.reason,
        relative_cost=outcome.relative_cost,
        machine=describe_machine(),
        seconds=round(time.monotonic() - started, 2),
    )


def _compare(context: CompareContext, options: CompareOptions) -> Outcome:
    """Load, export and time all backbones, find the finalists, and evaluate them in full."""
    outcome = Outcome()
    backbones = _load(context, options, outcome)
    outcome.backbones.update(backbones)
    outcome.served.update(float_latencies(context, backbones, outcome.failed))
    usable = {label: one for label, one in backbones.items() if label in outcome.served}
    usable = _within_reach(usable, outcome, options.budget_ms)
    halving = Halving(
        latencies={label: outcome.served[label].latency_ms for label in usable},
        images=len(context.sample.images),
        least=context.sample.least,
        evaluate=_subset_evaluation(context, usable, outcome),
        dropped=outcome.dropped,
    )
    finalists = halving.run()
    outcome.subset.update({label: result.scores for label, result in halving.evaluated.items()})
    final_round = FinalRound(context=context, outcome=outcome, halving=halving)
    final_round.run({label: usable[label] for label in finalists})
    outcome.served.update(best_precisions(context, final_round.trained, outcome.served))
    return outcome


def _load(context: CompareContext, options: CompareOptions, outcome: Outcome) -> dict[str, LoadedBackbone]:
    """Load the backbones; those that cannot be loaded are reported and left out."""
    found = {}
    for choice in options.choices:
        try:
            found[choice.label] = load_backbone(choice, context.sample, context.tuning, context.precision.device)
        except UnfreezeError as error:
            outcome.failed[choice.label] = failure(error)
            context.reporter.info(f"{choice.label} is left out: {outcome.failed[choice.label]}")
    return found


def _within_reach(
    backbones: dict[str, LoadedBackbone], outcome: Outcome, budget_ms: float | None
) -> dict[str, LoadedBackbone]:
    """Leave out backbones that are too slow for the budget in any precision, except the fastest."""
    if budget_ms is None or not backbones:
        return backbones
    latencies = {label: outcome.served[label].latency_ms for label in backbones}
    fastest = min(latencies, key=latencies.__getitem__)
    reach = _LARGEST_SPEEDUP * budget_ms
    slow = {label for label, latency in latencies.items() if latency > reach and label != fastest}
    outcome.dropped.update(dict.fromkeys(slow, f"more than {_LARGEST_SPEEDUP:g} times the budget"))
    return {label: one for label, one in backbones.items() if label not in slow}


def _subset_evaluation(
    context: CompareContext, backbones: dict[str, LoadedBackbone], outcome: Outcome
) -> Callable[[str, int], Evaluated | None]:
    """Return the evaluation for successive halving, which reports failures."""
    evaluator = SubsetEvaluator(context=context)

    def evaluate(label: str, count: int) -> Evaluated | None:
        try:
            return evaluator.evaluate(backbones[label], count)
        except UnfreezeError as error:
            outcome.failed[label] = failure(error)
            return None

    return evaluate
