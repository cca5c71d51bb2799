"""A small Ray cluster in processes of this machine."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import ray


@contextmanager
def ray_cluster(cpus: int) -> Iterator[str]:
    """Start Ray and connect to it; stop it at the end.

    Args:
        cpus: CPU cores that Ray may assign.

    Yields:
        The address of the cluster.
    """
    # Sockets in this folder must have short paths. Without RAY_AUTH_MODE, Ray writes a token to the home folder.
    environment = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder, patch.dict(os.environ, environment):
        context = ray.init(
            num_cpus=cpus, include_dashboard=False, log_to_driver=False, configure_logging=False, _temp_dir=folder
        )
        try:
            yield str(context.address_info["address"])
        finally:
            ray.shutdown()
