"""Tune a network: from labeled images to a run's folder."""

import copy
import os
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unfreeze.contract.reporting import Reporter, Silent
from unfreeze.tune.artifacts.checkpoint import save_run
from unfreeze.tune.artifacts.embedding import write_embedding
from unfreeze.tune.artifacts.findings import write_findings
from unfreeze.tune.artifacts.predictions import write_predictions
from unfreeze.tune.artifacts.results import TuningResult, build_facts, build_metrics
from unfreeze.tune.artifacts.run_folder import check_folder, locked_folder
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.device.distributed import join_workers
from unfreeze.tune.device.precision import choose_precision
from unfreeze.tune.device.threads import limited_threads
from unfreeze.tune.issues.issue_file import write_issues
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.pipeline.choose import Chosen, choose_candidate
from unfreeze.tune.pipeline.context import RunContext
from unfreeze.tune.pipeline.evaluate import evaluate_run
from unfreeze.tune.pipeline.issues import find_issues
from unfreeze.tune.pipeline.prepare import open_run, prepare_run
from unfreeze.tune.pipeline.teach import Taught, teach
from unfreeze.tune.pipeline.train import train_candidate
from unfreeze.tune.recipes.registry import is_linear
from unfreeze.tune.store.store import FeatureStore
from unfreeze.tune.training.train import Training


def fine_tune(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: TuneOptions | None = None,
    reporter: Reporter | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Fine-tune a pretrained network on labeled images.

    Processes that torchrun starts share the work. The first one writes the run and returns the metrics.

    Args:
        data: folder with one subfolder per class, optionally inside train, val and test folders; or a CSV file with a
            column of image paths, one of labels and, optionally, one of splits.
        out: the run's folder, which is created.
        options: options of the run; defaults if None.
        reporter: shows progress; nothing is shown if None.
        overwrite: replace a run in `out`, finished or not.
        resume: continue the unfinished run in `out`.

    Returns:
        The contents of `metrics.json`; an empty dict in all but the first of several processes.

    Raises:
        DataError: the images cannot be used, or a teacher has other labels.
        ModelError: a teacher cannot be used.
        WeightsError: the backbone or its weights are unavailable.
        CheckpointError: `out` already contains a run, another process is writing to it, it cannot be written, the cut
            is unknown, or the run to resume was started with other inputs.
        DivergenceError: weights, loss or outputs are not finite.
    """
    started, folder = time.monotonic(), Path(out)
    options, reporter = options or TuneOptions(), reporter or Silent()
    check_folder(folder, overwrite=overwrite, resume=resume)
    precision = choose_precision(options.device, options.precision)
    with limited_threads(), join_workers(precision.device) as workers, precision.kernels(), ExitStack() as stack:
        shown = reporter if workers.is_leader else Silent()
        store = stack.enter_context(FeatureStore(round(options.store_gb * 1e9), reporter=shown))
        context = prepare_run(data, folder, options, shown, precision, workers, store)
        if not workers.is_leader:
            workers.barrier()
            _tune(context)
            return {}
        with locked_folder(folder):
            open_run(context, folder, resume=resume)
            workers.barrier()
            tuned = _tune(context)
            chosen = tuned.chosen
            result = evaluate_run(context, chosen.choice, tuned.network, tuned.probed, tuned.training, chosen.score)
            return _save(context, folder, result, tuned, started)


@dataclass(frozen=True, kw_only=True)
class _Tuned:
    """A tuned network.

    Args:
        chosen: how it was tuned.
        taught: what became of a teacher; None without one.
        network: the tuned network.
        probed: the pretrained network with the probe as its head; the same if the probe is the result.
        training: None if the recipe is linear.
    """

    chosen: Chosen
    taught: Taught | None
    network: Network
    probed: Network
    training: Training | None


def _tune(context: RunContext) -> _Tuned:
    """Choose a candidate and train it; all processes take part."""
    chosen = choose_candidate(context)
    context.reporter.info(chosen.choice.reason)
    chosen, taught = teach(context, chosen)
    candidate = chosen.choice.candidate
    probed = copy.deepcopy(context.network)
    chosen.probe.put_into(probed.head)
    started = taught.network(probed) if taught is not None and taught.verdict.kept else probed
    if is_linear(candidate.recipe):
        return _Tuned(chosen=chosen, taught=taught, network=started, probed=probed, training=None)
    answers = taught.answers if taught else None
    training = train_candidate(context, candidate, started, chosen.extracted, answers)
    return _Tuned(chosen=chosen, taught=taught, network=training.network, probed=probed, training=training)


def _save(context: RunContext, folder: Path, result: TuningResult, tuned: _Tuned, started: float) -> dict[str, Any]:
    """Write the finished run and delete the state for resuming it; return the metrics."""
    chosen, taught = tuned.chosen, tuned.taught
    issues = find_issues(context, result, chosen.issues)
    write_issues(folder, issues, context.dataset)
    write_predictions(folder, result, context.dataset)
    if chosen.components is not None:
        write_embedding(folder, context.dataset, chosen.embedded, chosen.components, result)
    inputs = context.dataset, context.pretrained, context.options, result
    training = result.training
    metrics = build_metrics(*inputs, context.inspection.findings, context.precision)
    metrics["metric"] = context.metric
    metrics["distillation"] = taught and taught.metrics()
    metrics["issues"] = Counter(issue.kind for issue in issues)
    metrics["sizes"] = context.inspection.sizes
    metrics["flipped"] = context.views.flip or (training is not None and training.schedule.flip)
    metrics["seconds"] = round(time.monotonic() - started, 2)
    facts = build_facts(*inputs)
    if taught is not None:
        write_findings(folder, context.dataset, context.inspection)  # with what became of the teacher
        facts = replace(facts, provenance=replace(facts.provenance, distillation=taught.provenance()))
    detector = result.detector
    save_run(folder, result.network, facts, metrics, {} if detector is None else detector.tensors())
    context.resume_state.clear()
    return metrics
