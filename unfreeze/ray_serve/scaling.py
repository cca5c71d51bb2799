"""How many replicas Ray Serve runs, and what each gets."""

from dataclasses import dataclass
from typing import Any

from unfreeze.contract.errors import OptionsError
from unfreeze.contract.options import check_ranges

_RANGES: dict[str, tuple[float, float]] = {
    "min_replicas": (0, 10_000),
    "max_replicas": (1, 10_000),
    "target_ongoing_requests": (0.1, 100_000),
    "max_ongoing_requests": (1, 100_000),
    "max_queued_requests": (-1, 10_000_000),
    "num_cpus": (0, 1024),
    "num_gpus": (0, 1024),
    "drain_s": (0, 86_400),
}


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """How many replicas Ray Serve runs, and what each gets.

    Args:
        min_replicas: smallest number of replicas; with 0, the first request after a pause waits until one is loaded.
        max_replicas: largest number of replicas; equal to `min_replicas` for a fixed number.
        target_ongoing_requests: requests per replica that autoscaling aims at.
        max_ongoing_requests: requests that a replica handles at a time; a batch is formed of them.
        max_queued_requests: requests that may wait in each proxy for a replica; further ones fail with
            RESOURCE_EXHAUSTED. -1 for no limit.
        num_cpus: CPU cores of a replica, which it reserves in the cluster and limits its threads to.
        num_gpus: GPUs of a replica; may be a fraction.
        drain_s: seconds that the accepted requests of a replica may take to finish when it is stopped.

    Raises:
        OptionsError: a value is out of range, or two contradict each other.
    """

    min_replicas: int = 1
    max_replicas: int = 4
    target_ongoing_requests: float = 8.0
    max_ongoing_requests: int = 32
    max_queued_requests: int = 256
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    drain_s: float = 30.0

    def __post_init__(self) -> None:
        """Validate the values."""
        check_ranges(vars(self), _RANGES)
        if self.max_queued_requests == 0:
            raise OptionsError("--max-queued-requests must be at least 1, or -1 for no limit")
        if self.min_replicas > self.max_replicas:
            raise OptionsError(
                f"--min-replicas {self.min_replicas} is greater than --max-replicas {self.max_replicas}; for a fixed "
                "number of replicas, set both to it"
            )

    def deployment_options(self) -> dict[str, Any]:
        """Return the keyword arguments of `serve.deployment`."""
        fixed = self.min_replicas == self.max_replicas
        autoscaling = {
            "min_replicas": self.min_replicas,
            "max_replicas": self.max_replicas,
            "target_ongoing_requests": self.target_ongoing_requests,
        }
        replicas = {"num_replicas": self.max_replicas} if fixed else {"autoscaling_config": autoscaling}
        return {
            **replicas,
            "max_ongoing_requests": self.max_ongoing_requests,
            "max_queued_requests": self.max_queued_requests,
            "graceful_shutdown_timeout_s": self.drain_s,
            "ray_actor_options": {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus},
        }
