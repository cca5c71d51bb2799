"""What each of the processes that Ray Train starts does."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from unfreeze.contract.cores import limit_cores
from unfreeze.contract.errors import UnfreezeError
from unfreeze.ray_train.progress import RelayReporter
from unfreeze.tune.options import TuneOptions


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run, as it is sent to the workers.

    Args:
        data: images, as for `unfreeze.tune.run.fine_tune`.
        out: the run's folder.
        options: options of the run.
        overwrite: replace a run in `out`.
        resume: continue the unfinished run in `out`.
        folder: working directory that relative paths refer to.
        cores: CPU cores of a worker.
        relay: a `unfreeze.ray_train.progress.Relay`.
    """

    data: str
    out: Path
    options: TuneOptions
    overwrite: bool
    resume: bool
    folder: Path
    cores: float
    relay: Any


def train(job: Job) -> None:
    """Take part in a run; the first worker reports progress and writes it.

    Raises:
        UnfreezeError: as `unfreeze.tune.run.fine_tune`; it is also sent to the relay.
    """
    reporter = RelayReporter(job.relay)
    limit_cores(job.cores)
    try:
        _fine_tune(job, reporter)
    except UnfreezeError as error:
        ray.get(job.relay.fail.remote(error))
        raise
    finally:
        reporter.flush()


def _fine_tune(job: Job, reporter: RelayReporter) -> None:
    from unfreeze.tune.device.heap import keep_freed_memory
    from unfreeze.tune.run import fine_tune

    try:
        os.chdir(job.folder)
    except OSError as error:
        raise UnfreezeError(
            f"{job.folder} is not a folder of the node {ray.util.get_node_ip_address()} ({error.strerror}): all nodes "
            "need the data and the run's folder at the same paths, on a shared file system"
        ) from None
    keep_freed_memory()
    fine_tune(job.data, job.out, job.options, reporter, overwrite=job.overwrite, resume=job.resume)
