"""Classify very many images: list them, compute what is not finished yet, and merge the blocks."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unfreeze.batch.blocks import Block, images_per_block, split
from unfreeze.batch.fingerprint import check_unfinished, check_written
from unfreeze.batch.listing import Listing, write_listing
from unfreeze.batch.local import predict_locally
from unfreeze.batch.model import JobModel, read_job_model
from unfreeze.batch.options import PredictOptions
from unfreeze.batch.progress import BlockProgress
from unfreeze.batch.result import Written, write_result
from unfreeze.batch.working_folder import WorkingFolder, locked_working_folder, working_path
from unfreeze.contract.counted import counted
from unfreeze.contract.errors import UnfreezeError
from unfreeze.contract.reporting import CountingReporter

_FORMAT = 1  # of blocks; raise it when rows or their order change


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What a job did.

    Args:
        rows: number of rows of the result.
        failed: number of rows with an error; None if an earlier run had written the result.
        computed: number of images that this run classified or found to be unusable.
        seconds: that it took to classify them.
    """

    rows: int
    failed: int | None
    computed: int
    seconds: float


def predict_images(sources: Sequence[str], options: PredictOptions, reporter: CountingReporter) -> JobResult:
    """Classify images and write one row for each to a Parquet file or folder.

    A job that was interrupted continues where it was; one that is complete is not computed again.

    Args:
        sources: image files, folders, lists, Parquet files or tar files, as paths, URLs or patterns.
        options: options of the job.
        reporter: shows progress.

    Raises:
        OptionsError: an option is not valid.
        ModelError: the model cannot be used.
        UnfreezeError: a source cannot be read, `out` cannot be written, or it has the result of another job.
    """
    model, out = read_job_model(options.model, options.device), options.out
    check_written(out, None, overwrite=options.overwrite)
    with locked_working_folder(out) as folder:
        skipped = {os.path.abspath(path) for path in (out, folder.path)}  # noqa: PTH100 - as the listing compares
        listing = write_listing(folder.listing, sources, options.source, skipped)
        _report(listing, reporter)
        fingerprint = _fingerprint(listing, model, options)
        if (rows := check_written(out, fingerprint, overwrite=options.overwrite)) is not None:
            reporter.info(
                f"{out} is complete: these images, model and options were used; --overwrite computes it again"
            )
            folder.remove()
            return JobResult(rows=rows, failed=None, computed=0, seconds=0.0)
        check_unfinished(folder, fingerprint, overwrite=options.overwrite)
        return _run(_Job(folder=folder, listing=listing, model=model, options=options), fingerprint, reporter)


@dataclass(frozen=True, kw_only=True)
class _Job:
    folder: WorkingFolder
    listing: Listing
    model: JobModel
    options: PredictOptions

    def blocks(self) -> Iterator[Block]:
        """Yield all blocks, in order."""
        size = images_per_block(self.listing.images, self.model.batch)
        return split(self.listing.entries(), size)

    def computed(self, blocks: Iterator[Block]) -> Iterator[tuple[int, bytes]]:
        """Compute blocks here or on a cluster."""
        arguments = self.model, self.options.top_k, os.getcwd(), blocks  # noqa: PTH109 - a string
        if self.options.ray is None:
            return predict_locally(*arguments)
        from unfreeze.batch.ray_data import predict_on_ray

        return predict_on_ray(*arguments, self.options.ray)


def _run(job: _Job, fingerprint: dict[str, Any], reporter: CountingReporter) -> JobResult:
    folder = job.folder
    if folder.fingerprint() is None:
        folder.begin(fingerprint)
    progress = BlockProgress(job.listing, reporter)
    started = time.monotonic()
    try:
        for number, content in job.computed(_unfinished(job, progress)):
            progress.add(number, folder.write(number, content))
        seconds = time.monotonic() - started
        written = _merged(job, fingerprint, reporter)
    except OSError as error:
        raise UnfreezeError(
            f"cannot write {error.filename or folder.path}: {error.strerror or error}; what is finished is kept: the "
            "same command continues"
        ) from error
    folder.remove()
    return JobResult(rows=written.rows, failed=written.failed, computed=progress.computed, seconds=seconds)


def _unfinished(job: _Job, progress: BlockProgress) -> Iterator[Block]:
    for block in job.blocks():
        rows = job.folder.rows(block.number)
        if rows is None:
            progress.begin(block)
            yield block
        else:
            progress.skip(block, rows)


def _merged(job: _Job, fingerprint: dict[str, Any], reporter: CountingReporter) -> Written:
    count = sum(1 for _ in job.blocks())
    advance = reporter.track("writing the result", count)

    def files() -> Iterator[Path]:
        for number in range(count):
            yield job.folder.block(number)
            advance(1)

    return write_result(job.options.out, files(), fingerprint)


def _fingerprint(listing: Listing, model: JobModel, options: PredictOptions) -> dict[str, Any]:
    return {
        "images": listing.digest,
        "model": model.sha256,
        "device": model.device,
        "top_k": options.top_k,
        "batch": model.batch,
        "format": _FORMAT,
        "unfreeze": version("unfreeze"),
    }


def _report(listing: Listing, reporter: CountingReporter) -> None:
    more = f", and those in {counted(listing.unknown, 'tar file')} behind URLs" if listing.unknown else ""
    reporter.info(f"{counted(listing.images, 'image')}{more}")
    if repeated := len(listing.repeated):
        reporter.info(f"{counted(repeated, 'image is', 'images are')} listed more than once; each has one row")
    if listing.ignored:
        reporter.info(listing.ignored)


def has_unfinished(out: Path) -> bool:
    """Return whether the working folder of a result exists."""
    return working_path(out).is_dir()
