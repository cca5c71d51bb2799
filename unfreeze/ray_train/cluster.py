"""The Ray cluster that a training runs on: connect to it, and check what it has."""

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from unfreeze.contract.errors import OptionsError, UnfreezeError, first_line
from unfreeze.contract.reporting import Reporter
from unfreeze.ray_train.options import RayOptions
from unfreeze.tune.options import TuneOptions

_LOCAL = "local"


@contextmanager
def connected(options: RayOptions) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine; disconnecting also stops all workers.

    Raises:
        UnfreezeError: the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    address = options.ray_address or os.environ.get("RAY_ADDRESS") or _LOCAL
    sigterm = signal.getsignal(signal.SIGTERM)
    # Locally, as many processes as were requested may share the cores, as with torchrun.
    local = {"num_cpus": math.ceil(options.ray_workers * options.ray_cpus), "include_dashboard": False}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(local if address == _LOCAL else {}),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UnfreezeError(
            f"cannot connect to a Ray cluster at {address}: {first_line(error)}; without --ray-address and "
            "RAY_ADDRESS, Ray is started on this machine"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, sigterm)  # Ray's own handler exits without cleaning up
    try:
        yield
    finally:
        ray.shutdown()


def wants_gpus(options: TuneOptions, count: int) -> bool:
    """Decide whether each process gets a GPU.

    Raises:
        OptionsError: the cluster has fewer GPUs than processes.
    """
    available = int(ray.cluster_resources().get("GPU", 0))
    if options.device == "cpu" or (options.device == "auto" and available == 0):
        return False
    if available < count:
        raise OptionsError(
            f"--ray-workers {count} needs as many GPUs, and the cluster has {available}; use fewer processes, or "
            "--device cpu"
        )
    return True


def report_waiting(reporter: Reporter, cores: float) -> None:
    """Report that the cluster has fewer cores than the processes need, if so."""
    available = ray.cluster_resources().get("CPU", 0)
    if available < cores:
        reporter.info(f"waiting until the cluster has {cores:g} CPU cores; now it has {available:g}")
