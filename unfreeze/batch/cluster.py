"""A connection to a Ray cluster."""

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
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UnfreezeError(f"--ray needs Ray: pip install 'unfreeze[ray]' ({first_line(error)})") from error
    if ray.is_initialized():
        yield ray
        return
    logging.getLogger("ray.data").setLevel(logging.WARNING)
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


def own_error(error: BaseException) -> UnfreezeError:
    """Return the error of ours that Ray's error was caused by, or one that says what happened."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or current in seen:
            continue
        if isinstance(current, UnfreezeError):
            return current
        seen.append(current)
        waiting += [getattr(current, "cause", None), current.__cause__, current.__context__]
    return UnfreezeError(f"the Ray cluster failed: {first_line(error)}")
