"""Prepare a run: read and inspect the images, load the pretrained network, open the run's folder."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from unfreeze.contract.counted import counted
from unfreeze.contract.errors import CheckpointError, DataError
from unfreeze.contract.reporting import Reporter
from unfreeze.tune.artifacts.findings import FINDINGS_FILE, write_findings
from unfreeze.tune.artifacts.resume import ResumeState
from unfreeze.tune.artifacts.run_folder import locked_folder, remove_run
from unfreeze.tune.backbones.weights import load_pretrained
from unfreeze.tune.data.dataset import Dataset, read_dataset
from unfreeze.tune.data.inspection.inspection import Finding, Inspection, inspect_dataset
from unfreeze.tune.data.sources import SourceOptions
from unfreeze.tune.device.distributed import Workers
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.features.placement import CachePlacement
from unfreeze.tune.issues.issue_file import relabeled, without_issues
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.pipeline.context import RunContext
from unfreeze.tune.pipeline.teacher import check_paths, open_teacher
from unfreeze.tune.selection.choose import FOLDS
from unfreeze.tune.selection.request import check_attention, earliest_cut, requested_candidate
from unfreeze.tune.store.store import NO_STORE, FeatureStore


def prepare_run(
    data: str | os.PathLike[str],
    out: Path,
    options: TuneOptions,
    reporter: Reporter,
    precision: Precision,
    workers: Workers,
    store: FeatureStore = NO_STORE,
) -> RunContext:
    """Read everything that a run needs, before anything is written.

    Args:
        data: folder of labeled images, or a CSV file.
        out: the run's folder, which may not exist yet.
        options: options of the run.
        reporter: shows progress.
        precision: device and numeric type.
        workers: processes that share the work.
        store: results of frozen blocks in earlier runs.

    Returns:
        The context of the run, whose dataset has no files that cannot be decoded.

    Raises:
        DataError: the images cannot be used, `strict` is set and they have problems, or a teacher has other labels.
        WeightsError: the backbone or its weights are unavailable.
        CheckpointError: the cut is unknown, or the options do not suit distributed training.
        ModelError: a teacher cannot be used.
    """
    torch.manual_seed(options.seed)
    check_paths(options)
    dataset = read_images(data, options, reporter)
    pretrained = load_pretrained(options.backbone, options.weights, options.image_size, options.crop_pct)
    if pretrained.note:
        reporter.info(pretrained.note)
    network = pretrained.network(options.backbone, len(dataset.labels), precision.device, options.pooling)
    network.position(earliest_cut(network, options))
    check_attention(network, options)
    check_distributed(options, workers)
    teacher, noticed = open_teacher(Path(options.teacher), dataset, precision.device) if options.teacher else (None, ())
    inspection = inspect_images(dataset, options, reporter, store, noticed)
    if options.strict:
        _refuse_problems(dataset, inspection, out, workers)
    return RunContext(
        options=options,
        reporter=reporter,
        dataset=dataset.without(inspection.undecodable),
        inspection=inspection,
        pretrained=replace(pretrained, spec=replace(pretrained.spec, deep_range=inspection.deep_range)),
        precision=precision,
        network=network,
        placement=CachePlacement(budget_bytes=round(options.cache_gb * 1e9), folder=out, device=precision.device),
        resume_state=ResumeState(out),
        workers=workers,
        store=store,
        teacher=teacher,
    )


def open_run(context: RunContext, out: Path, *, resume: bool) -> None:
    """Check the state of the run to resume, or remove an earlier run and begin a new one.

    Args:
        context: state of the run.
        out: the run's folder, which exists.
        resume: whether to resume.

    Raises:
        CheckpointError: the run to resume was started with other inputs.
    """
    write_findings(out, context.dataset, context.inspection)
    contents = context.inspection.contents | _teacher_content(context)
    inputs = context.options, contents, context.pretrained.sha256
    if resume:
        context.resume_state.check(*inputs)
        return
    remove_run(out)
    context.resume_state.begin(*inputs)


def _teacher_content(context: RunContext) -> dict[str, str]:
    """Return what identifies the teacher, so that a run is resumed with the same one."""
    return (
        {} if context.teacher is None else {"teacher": f"{context.teacher.identity}, {context.teacher.identity.sha256}"}
    )


def read_images(data: str | os.PathLike[str], options: TuneOptions, reporter: Reporter) -> Dataset:
    """Read a dataset, leave out or relabel the images that the options name, and report what it contains.

    Raises:
        DataError: the images cannot be used.
    """
    source = SourceOptions.of(options)
    dataset = read_dataset(data, val_fraction=options.val_fraction, seed=options.seed, options=source)
    for line in dataset.summary():
        reporter.info(line)
    for file, change in ((options.relabel, relabeled), (options.drop_issues, without_issues)):
        if file is not None:
            dataset, note = change(dataset, Path(file))
            reporter.info(note)
    return dataset


def inspect_images(
    dataset: Dataset,
    options: TuneOptions,
    reporter: Reporter,
    store: FeatureStore,
    noticed: Sequence[Finding] = (),
) -> Inspection:
    """Inspect a dataset and report its problems.

    Args:
        dataset: the dataset.
        options: options of the run.
        reporter: shows progress and problems.
        store: has what earlier inspections found.
        noticed: problems that are known already.

    Raises:
        DataError: there are no images in the folder of images without labels.
    """
    unlabeled = Path(options.unlabeled) if options.unlabeled else None
    inspection = inspect_dataset(dataset, FOLDS, reporter, options.deep_range, store, unlabeled)
    inspection = replace(inspection, findings=(*inspection.findings, *noticed))
    for line in (*inspection.notes, *(finding.describe() for finding in inspection.findings)):
        reporter.info(line)
    return inspection


def check_distributed(options: TuneOptions, workers: Workers) -> None:
    """Check that several processes can train with the options.

    Raises:
        CheckpointError: they must choose something, or a feature needs a single process.
    """
    if workers.count == 1:
        return
    if requested_candidate(options) is None:
        raise CheckpointError(
            "distributed training needs explicit options: --recipe, --learning-rate, and --cut for last-blocks"
        )
    if options.patience or options.mixup:
        raise CheckpointError("distributed training does not support --patience and --mixup; leave them out")
    if options.teacher:
        raise CheckpointError("distributed training does not support --teacher; leave it out, or use a single process")


def _refuse_problems(dataset: Dataset, inspection: Inspection, out: Path, workers: Workers) -> None:
    """Raise an error if the data has problems, after writing all of them to the run's folder."""
    problems = [finding for finding in inspection.findings if not finding.handled]
    if not problems:
        return
    if workers.is_leader:
        with locked_folder(out):
            write_findings(out, dataset, inspection)
    listed = "".join(f"\n  {finding.describe()}" for finding in problems)
    count = counted(len(problems), "problem")
    raise DataError(f"--strict: the data has {count}; all files are listed in {out / FINDINGS_FILE}:{listed}")
