"""Options of an application, and the configuration files in docs/deploy; without a cluster."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray.serve
import yaml
from ray.serve.schema import ServeDeploySchema

from unfreeze.contract.errors import OptionsError
from unfreeze.ray_serve import Scaling, application, build, grpc_options
from unfreeze.serve.options import ServeOptions

pytestmark = pytest.mark.xdist_group("ray")

DEPLOY = Path(__file__).parents[3] / "docs" / "deploy"


def _built(app: ray.serve.Application) -> tuple[ray.serve.Deployment, ServeOptions]:
    deployment = app._bound_deployment
    return deployment, deployment.init_args[0]


def test_arguments_have_the_types_of_the_options() -> None:
    """Text from a command line and values from YAML give the same options; the others have their defaults."""
    texts = {"repository": "models", "max_batch": "16", "poll_s": "0.5", "max_replicas": "8", "num_cpus": "2"}
    values = {"repository": "models", "max_batch": 16, "poll_s": 0.5, "max_replicas": 8, "num_cpus": 2}
    for args in (texts, values):
        deployment, options = _built(build(args))
        expected = ServeOptions(
            repository=Path("models").absolute(), max_batch=16, poll_s=0.5, admin=False, metrics=False
        )
        assert options == expected
        assert deployment.ray_actor_options == {"num_cpus": 2.0, "num_gpus": 0.0}
        scaling = deployment._deployment_config.autoscaling_config
        assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (1, 8, 8.0)


def test_equal_limits_are_a_fixed_number_of_replicas() -> None:
    """Then Ray Serve does not scale."""
    deployment, _ = _built(application("models", scaling=Scaling(min_replicas=3, max_replicas=3), max_queue=7))
    assert deployment.num_replicas == 3
    assert deployment._deployment_config.autoscaling_config is None
    assert _built(application("models", max_queue=7))[1].max_queue == 7


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, "the argument repository is missing"),
        ({"repository": "models", "port": 1, "host": "::"}, "unknown arguments host, port; known ones: cuda_graphs,"),
        ({"repository": "models", "max_batch": "many"}, "max_batch must be a valid integer, .* got 'many'"),
        ({"repository": "models", "device": "tpu"}, "--device must be one of cpu, .* got 'tpu'"),
        ({"repository": "models", "device": "cuda"}, "--device cuda needs num_gpus"),
        ({"repository": "models", "max_batch": 5000}, "--max-batch must be between 0 and 4,096, got 5000"),
        ({"repository": "models", "min_replicas": 5}, "--min-replicas 5 is greater than --max-replicas 4"),
        ({"repository": "models", "max_queued_requests": 0}, "--max-queued-requests must be at least 1, or -1"),
        ({"repository": "models", "num_cpus": -1}, "--num-cpus must be between 0 and 1,024, got -1"),
    ],
)
def test_wrong_arguments_name_what_is_wrong(args: dict[str, Any], message: str) -> None:
    """Before anything is deployed."""
    with pytest.raises(OptionsError, match=message):
        build(args)


def _config() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "ray-serve.yaml").read_text()))


def _manifests() -> dict[str, Any]:
    documents = yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text())
    return {document["kind"]: document for document in documents}


def test_the_configuration_file_is_valid() -> None:
    """Ray Serve accepts it; what it imports exists, takes its arguments, and is what Python code passes."""
    config = ServeDeploySchema.model_validate(_config())
    (app,) = config.applications
    module, _, name = app.import_path.partition(":")
    deployment, options = _built(getattr(importlib.import_module(module), name)(app.args))
    assert options.repository == Path("/models")
    assert deployment.ray_actor_options["num_cpus"] == 2
    assert config.grpc_options.model_dump() == {**grpc_options().model_dump(), "port": 8001}
    assert all(map(callable, grpc_options().grpc_servicer_func_callable))


def test_kuberay_runs_the_same_configuration() -> None:
    """Its probes and services use the ports of the proxies, and a pod has room for whole replicas."""
    service, manifest = _manifests()["Service"]["spec"], _manifests()["RayService"]["spec"]
    config = yaml.safe_load(manifest["serveConfigV2"])
    assert config == _config()
    (workers,) = manifest["rayClusterConfig"]["workerGroupSpecs"]
    pod = workers["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"serve": config["http_options"]["port"], "grpc": config["grpc_options"]["port"]}
    assert f"localhost:{ports['serve']}/-/healthz" in container["readinessProbe"]["exec"]["command"][-1]
    assert service["ports"][0]["port"] == ports["grpc"]
    assert service["selector"].items() >= workers["template"]["metadata"]["labels"].items()
    args = config["applications"][0]["args"]
    cores = int(container["resources"]["limits"]["cpu"])
    assert cores % args["num_cpus"] == 0
    assert workers["maxReplicas"] * cores >= args["max_replicas"] * args["num_cpus"]
    assert pod["terminationGracePeriodSeconds"] >= Scaling().drain_s + 10
    assert manifest["rayClusterConfig"]["rayVersion"] == ray.__version__


def test_replicas_and_proxies_import_no_training_stack() -> None:
    """Nor a runtime, before a model is loaded; without Ray the message says how to install it."""
    heavy = ("torch", "onnx", "onnxruntime", "sklearn", "unfreeze.tune")
    code = f"import sys, unfreeze.ray_serve.proxied_services; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    code = "import sys; sys.modules['ray'] = None; import unfreeze.ray_serve"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'unfreeze[ray]'" in done.stderr.splitlines()[-1]
