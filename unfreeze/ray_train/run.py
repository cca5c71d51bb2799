"""Fine-tune with processes that Ray Train starts."""

import json
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import ray
from ray.train import RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from unfreeze.contract.errors import UnfreezeError, first_line
from unfreeze.contract.reporting import Reporter
from unfreeze.ray_train.cluster import connected, report_waiting, wants_gpus
from unfreeze.ray_train.options import RayOptions
from unfreeze.ray_train.progress import Replay, start_relay
from unfreeze.ray_train.worker import Job, train
from unfreeze.tune.artifacts.checkpoint import METRICS_FILE
from unfreeze.tune.artifacts.run_folder import check_folder
from unfreeze.tune.device.distributed import Workers
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.pipeline.prepare import check_distributed

_GPU_BACKEND = "cpu:gloo,cuda:nccl"  # features are collected in main memory, gradients on the device
_POLL_S = 0.2


def fine_tune_with_ray(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: TuneOptions,
    ray_options: RayOptions,
    reporter: Reporter,
    *,
    overwrite: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Fine-tune with several processes, as `torchrun` does, and with the same result.

    Args:
        data: as for `unfreeze.tune.run.fine_tune`.
        out: as for `fine_tune`.
        options: options of the run.
        ray_options: number of processes, and where.
        reporter: shows the progress of the first process.
        overwrite: as for `fine_tune`.
        resume: as for `fine_tune`.

    Returns:
        The contents of `metrics.json`.

    Raises:
        UnfreezeError: as `fine_tune`, from any of the processes; or Ray failed, or the cluster has too few GPUs.
    """
    folder, count = Path(out).absolute(), ray_options.ray_workers
    check_folder(folder, overwrite=overwrite, resume=resume)
    check_distributed(options, Workers(count=count))
    with connected(ray_options):
        relay = start_relay()
        job = Job(
            data=os.fspath(data),
            out=folder,
            options=options,
            overwrite=overwrite,
            resume=resume,
            folder=Path.cwd(),
            cores=ray_options.ray_cpus,
            relay=relay,
        )
        gpus = wants_gpus(options, count)
        report_waiting(reporter, count * ray_options.ray_cpus)
        _run(job, ray_options, reporter, gpus=gpus)
    return _metrics(folder)


def _run(job: Job, options: RayOptions, reporter: Reporter, *, gpus: bool) -> None:
    """Run the training and show its progress.

    Raises:
        UnfreezeError: a worker failed.
    """
    with tempfile.TemporaryDirectory(prefix="unfreeze-ray-") as storage:  # Ray Train requires one; nothing is kept
        trainer = TorchTrainer(
            lambda: train(job),
            torch_config=TorchConfig(backend=_GPU_BACKEND if gpus else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=options.ray_workers, use_gpu=gpus, resources_per_worker=_resources(options, gpus=gpus)
            ),
            run_config=RunConfig(storage_path=storage),
        )
        errors = _follow(_Fitting(trainer), job, Replay(reporter))
    if errors:
        raise errors[0]


def _follow(fitting: "_Fitting", job: Job, replay: Replay) -> list[UnfreezeError]:
    """Show the progress until the training ends; return the errors of the workers.

    Raises:
        UnfreezeError: the training failed without an error of ours.
    """
    try:
        while fitting.is_alive():
            fitting.join(_POLL_S)
            replay.show(ray.get(job.relay.take.remote()))
        errors: list[UnfreezeError] = ray.get(job.relay.errors.remote())
    except ray.exceptions.RayError as error:
        raise UnfreezeError(
            f"the Ray cluster was lost: {first_line(error)}; an unfinished run in {job.out} is continued with --resume"
        ) from error
    if fitting.error is not None and not errors:
        raise _unexpected(fitting.error, job)
    return errors


def _resources(options: RayOptions, *, gpus: bool) -> dict[str, float]:
    return {"CPU": options.ray_cpus} | ({"GPU": 1} if gpus else {})


class _Fitting(threading.Thread):
    """Runs a trainer in a thread, because in the main thread Ray Train would handle Ctrl-C, and exit with code 0."""

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(name="ray train", daemon=True)
        self._trainer = trainer
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Train; keep the error."""
        try:
            self._trainer.fit()
        except BaseException as error:  # noqa: BLE001 - raised by the caller
            self.error = error


def _unexpected(error: BaseException, job: Job) -> BaseException:
    """Return the error for a failure that no worker has explained, such as a process that was killed."""
    if not isinstance(error, TrainingFailedError):
        return error
    failures = getattr(error, "worker_failures", None) or {0: error}
    rank, failure = next(iter(failures.items()))
    return UnfreezeError(
        f"worker {rank} of the training failed: {_last_line(failure)}. Ray's logs have the details; an unfinished run "
        f"in {job.out} is continued with --resume"
    )


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def _metrics(folder: Path) -> dict[str, Any]:
    """Read the metrics that the first worker has written.

    Raises:
        UnfreezeError: they are not there.
    """
    try:
        metrics: dict[str, Any] = json.loads((folder / METRICS_FILE).read_bytes())
    except OSError as error:
        raise UnfreezeError(
            f"the training is complete, but {folder} has no {METRICS_FILE} on this machine ({error.strerror}): the "
            "run's folder must be on a file system that all nodes share"
        ) from None
    return metrics
