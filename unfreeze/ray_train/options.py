"""Options of training with Ray, validated at construction; nothing of Ray is imported."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated

from cyclopts import Group, Parameter

from unfreeze.contract.errors import OptionsError
from unfreeze.contract.options import check_ranges

_RANGES: dict[str, tuple[float, float]] = {"ray_workers": (0, 10_000), "ray_cpus": (0.01, 1024)}
_ray = Parameter(group=Group("Ray", sort_key=7))
_CLIENT_SCHEME = "ray://"


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Options of training with Ray.

    Args:
        ray_workers: train with this many processes that Ray starts, one per GPU where the cluster has GPUs, as with
            torchrun: give --recipe, --learning-rate, and --cut for last-blocks. 0 trains in this process. Needs
            unfreeze[ray].
        ray_address: cluster to train on, "auto" for the one that this machine belongs to; all its nodes must have
            DATA and OUT at the same paths. By default that of the variable RAY_ADDRESS, else Ray is started on this
            machine for the run.
        ray_cpus: CPU cores of each process.

    Raises:
        OptionsError: a value is out of range, Ray is not installed, or an option needs --ray-workers.
    """

    ray_workers: Annotated[int, _ray] = 0
    ray_address: Annotated[str | None, _ray] = None
    ray_cpus: Annotated[float, _ray] = 1.0

    def __post_init__(self) -> None:
        """Validate the options."""
        check_ranges(vars(self), _RANGES)
        if not self.ray_workers:
            if self.ray_address is not None:
                raise OptionsError("--ray-address also needs --ray-workers")
            return
        if find_spec("ray") is None:
            raise OptionsError("--ray-workers needs Ray: pip install 'unfreeze[ray]'")
        if self.ray_address is not None and self.ray_address.startswith(_CLIENT_SCHEME):
            raise OptionsError(
                f"--ray-address {self.ray_address} is of a Ray Client, which cannot train: run the command on a node "
                "of the cluster, or as a job: ray job submit -- unfreeze tune ..."
            )
