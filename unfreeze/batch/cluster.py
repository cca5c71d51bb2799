"""A connection to a Ray cluster."""

import gc
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from unfreeze.contract.cores import usable_cores
from unfreeze.contract.errors import UnfreezeError, first_line

if TYPE_CHECKING:
    from types import ModuleType

AUTO = "auto"
_ADDED = "\nFailed to apply UDF transform"  # by Ray Data, to the messages of errors
_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # it also logs what is no error to standard error
}


@contextmanager
def connected(address: str) -> Iterator["ModuleType"]:
    """Connect to a cluster; at the end, disconnect, and end one that was started here.

    Args:
        address: "auto" uses the cluster that runs on this machine, and starts one of this machine's cores if there is
            none; otherwise the address of a cluster, as Ray writes it.

    Yields:
        The module `ray`.

    Raises:
        UnfreezeError: Ray is not installed, or no cluster answers.
    """
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UnfreezeError(f"--ray needs Ray: pip install 'unfreeze[ray]' ({first_line(error)})") from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # an error is reported once, by us
    ray.data.DataContext.get_current().enable_progress_bars = False
    if ray.is_initialized():
        yield ray
        return
    _connect(ray, address)
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: "ModuleType", address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if address == AUTO:
            ray.init(address="local", num_cpus=usable_cores(), include_dashboard=False, **quiet)
            return
        raise UnfreezeError(
            f"no Ray cluster answers at {address} ({first_line(error)}); `ray start --head` starts one, `ray status` "
            "shows its address"
        ) from error


def check_gpu(ray: "ModuleType", device: str) -> None:
    """Check that a cluster has a GPU for a device that needs one; Ray itself would wait for one.

    Raises:
        UnfreezeError: it has none.
    """
    if not ray.cluster_resources().get("GPU"):
        raise UnfreezeError(f"--device {device}: no machine of the Ray cluster has a GPU; use --device cpu")


def own_error(error: BaseException) -> UnfreezeError:
    """Return the error of ours that Ray's error was caused by, or one that says what happened.

    It does not refer to Ray's, and is to be raised behind the handler: otherwise the workers of the failed job would
    live as long as the error.
    """
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or current in seen:
            continue
        if isinstance(current, UnfreezeError) and type(current).__module__.startswith(
            "unfreeze."
        ):  # Ray derives others
            return type(current)(str(current).partition(_ADDED)[0])
        seen.append(current)
        waiting += [current.__context__, current.__cause__, getattr(current, "cause", None)]
    return UnfreezeError(f"the Ray cluster failed: {first_line(error)}")


def raise_behind(failure: UnfreezeError | None) -> None:
    """Raise what `own_error` has returned, if anything, when the workers of the failed job are gone."""
    if failure is not None:
        gc.collect()  # Ray's executor, which holds them, is part of a cycle
        raise failure
