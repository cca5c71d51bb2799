"""Tune a network: from labeled images to a run's folder."""

import copy
import os
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from unfreeze.contract.reporting import Reporter, Silent
from unfreeze.tune.artifacts.checkpoint import save_run
from unfreeze.tune.artifacts.embedding import write_embedding
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
        DataError: the images cannot be used.
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
            chosen, probed, training = _tune(context)
            result = evaluate_run(context, chosen.choice, probed, training)
            return _save(context, folder, result, chosen, started)


def _tune(context: RunContext) -> tuple[Chosen, Network, Training | None]:
    """Choose a candidate and train it; all processes take part.

    Returns:
        What was chosen, the pretrained network with the probe as its head, and the training; None if the recipe is
        linear.
    """
    chosen = choose_candidate(context)
    candidate = chosen.choice.candidate
    context.reporter.info(chosen.choice.reason)
    probed = copy.deepcopy(context.network)
    chosen.probe.put_into(probed.head)
    training = None if is_linear(candidate.recipe) else train_candidate(context, candidate, probed, chosen.extracted)
    return chosen, probed, training


def _save(context: RunContext, folder: Path, result: TuningResult, chosen: Chosen, started: float) -> dict[str, Any]:
    """Write the finished run and delete the state for resuming it; return the metrics."""
    issues = find_issues(context, result, chosen.issues)
    write_issues(folder, issues, context.dataset)
    write_predictions(folder, result, context.dataset)
    if chosen.components is not None:
        write_embedding(folder, context.dataset, chosen.embedded, chosen.components, result)
    inputs = context.dataset, context.pretrained, context.options, result
    training = result.training
    metrics = build_metrics(*inputs, context.inspection.findings, context.precision)
    metrics["metric"] = context.metric
    metrics["issues"] = Counter(issue.kind for issue in issues)
    metrics["sizes"] = context.inspection.sizes
    metrics["flipped"] = context.views.flip or (training is not None and training.schedule.flip)
    metrics["seconds"] = round(time.monotonic() - started, 2)
    save_run(folder, result.network, build_facts(*inputs), metrics)
    context.resume_state.clear()
    return metrics
