"""A small Ray cluster in processes of this machine."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import ray

# Without the first, Ray writes a token to the home folder; without the last, everything else on the machine goes first.
RAY_ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}


@contextmanager
def ray_cluster(cpus: int) -> Iterator[str]:
    """Start Ray and connect to it; stop it at the end.

    Args:
        cpus: CPU cores that Ray may assign.

    Yields:
        The address of the cluster.
    """
    # Ray creates sockets in its folder, so its path must be short.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder, patch.dict(os.environ, RAY_ENVIRONMENT):
        context = ray.init(
            num_cpus=cpus, include_dashboard=False, log_to_driver=False, configure_logging=False, _temp_dir=folder
        )
        try:
            yield str(context.address_info["address"])
        finally:
            ray.shutdown()
