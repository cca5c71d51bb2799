"""The Ray Serve application of a model repository, built in Python or from a configuration file."""

import os
from pathlib import Path
from typing import Any, TypedDict, Unpack, get_type_hints

from pydantic import TypeAdapter, ValidationError
from ray import serve
from ray.serve.config import gRPCOptions

from unfreeze.contract.errors import OptionsError
from unfreeze.ray_serve.replica import ClassifierReplica
from unfreeze.ray_serve.scaling import Scaling
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.runtimes.registry import RuntimeName, find_runtime

DEPLOYMENT = "Classifier"
ADD_SERVICES = "unfreeze.ray_serve.proxied_services.add_services"


class ReplicaKeywords(TypedDict, total=False):
    """The fields of `unfreeze.serve.options.ServeOptions` that apply to a replica; they have the same defaults."""

    versions: int
    poll_s: float
    device: RuntimeName
    instances: int
    threads: int
    gpu_memory_mib: int
    cuda_graphs: bool
    cudnn_search: bool
    max_batch: int
    max_delay_ms: float
    max_queue: int
    max_queue_mib: int
    max_pixels: int


def application(
    repository: str | os.PathLike[str], *, scaling: Scaling | None = None, **options: Unpack[ReplicaKeywords]
) -> serve.Application:
    """Return an application for `serve.run`.

    Each replica loads the repository, batches its requests and polls for new versions, as a server does.

    Args:
        repository: folder of the model repository, on a file system that all nodes share.
        scaling: number and resources of the replicas.
        options: options of a server that apply to a replica, see `ReplicaKeywords`.

    Raises:
        OptionsError: an option is out of range, or a replica would have no GPU for its runtime.
    """
    scaling = scaling or Scaling()
    # Clients may not load models, because a call reaches one replica only.
    configured = ServeOptions(repository=Path(repository).absolute(), admin=False, metrics=False, **options)
    if not scaling.num_gpus and not find_runtime(configured.device).uses_cpu:
        raise OptionsError(
            f"--device {configured.device} needs num_gpus: Ray hides GPUs that a replica does not reserve"
        )
    deployment = serve.deployment(ClassifierReplica, name=DEPLOYMENT, **scaling.deployment_options())
    return deployment.bind(configured)


def build(args: dict[str, Any]) -> serve.Application:
    """Return an application for a configuration file of Ray Serve: `import_path: unfreeze.ray_serve:build`.

    Args:
        args: `repository`, fields of `Scaling`, and options of a server that apply to a replica.

    Raises:
        OptionsError: a name is unknown, or a value is of the wrong type or out of range.
    """
    scaling_types = get_type_hints(Scaling)
    replica_types = {"repository": Path} | get_type_hints(ReplicaKeywords)
    known = scaling_types | replica_types
    if unknown := sorted(set(args) - known.keys()):
        raise OptionsError(f"unknown arguments {', '.join(unknown)}; known ones: {', '.join(sorted(known))}")
    if "repository" not in args:
        raise OptionsError("the argument repository is missing: the folder of the model repository")
    values = {name: _converted(name, value, known[name]) for name, value in args.items()}
    scaling = Scaling(**{name: value for name, value in values.items() if name in scaling_types})
    return application(scaling=scaling, **{name: value for name, value in values.items() if name in replica_types})


def grpc_options(port: int = 8001, request_timeout_s: float | None = None) -> gRPCOptions:
    """Return the options with which Ray Serve's gRPC proxies answer the services of a server, for `serve.start`.

    Args:
        port: of the proxies.
        request_timeout_s: deadline of calls whose caller sets none, in seconds; None for none.
    """
    return gRPCOptions(port=port, grpc_servicer_functions=[ADD_SERVICES], request_timeout_s=request_timeout_s)


def _converted(name: str, value: Any, kind: Any) -> Any:
    """Convert a value from YAML, or a string from a command line, to the type of an option."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        expected = error.errors()[0]["msg"].removeprefix("Input should be ")
        raise OptionsError(f"{name} must be {expected}, got {value!r}") from None
