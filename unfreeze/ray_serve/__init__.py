"""Serve a model repository with Ray Serve: autoscaled replicas behind its gRPC proxies, with a server's protocols.

    from ray import serve
    from unfreeze import ray_serve

    serve.start(grpc_options=ray_serve.grpc_options(port=8001))
    serve.run(ray_serve.application("models", scaling=ray_serve.Scaling(min_replicas=2, max_replicas=8)))

`build` is for configuration files of Ray Serve; `docs/deploy/ray-serve.yaml` is one. Needs unfreeze[ray].
"""

try:
    from ray import serve as _  # noqa: F401 - reports a missing package before anything else does
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"unfreeze.ray_serve needs Ray Serve: pip install 'unfreeze[ray]' ({error})", name=error.name
    ) from error

from unfreeze.ray_serve.application import application, build, grpc_options
from unfreeze.ray_serve.scaling import Scaling

__all__ = ["Scaling", "application", "build", "grpc_options"]
