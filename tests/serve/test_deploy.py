"""The examples in docs/deploy are well-formed and use existing options and metrics."""

import configparser
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support.cli import run_cli
from support.logged import logged_server
from support.servers import RunningServer

from unfreeze.command import app
from unfreeze.serve.observability.logs import LogOptions
from unfreeze.serve.options import ServeOptions

pytestmark = pytest.mark.xdist_group("serve")

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
DOCKER_FLAGS = {"--rm", "--time", "--from", "--mount"}  # of `docker` in comments, and of Dockerfile instructions


def _without_lines(text: str, *patterns: str) -> str:
    return "\n".join(line for line in text.splitlines() if not re.search("|".join(patterns), line))


def _instruction(name: str) -> list[str]:
    """Return the arguments of a Dockerfile instruction in JSON form."""
    (found,) = re.findall(rf"^ *{name} (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)[-1:]
    return list(json.loads(found))


def _manifests() -> dict[str, Any]:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return {document["kind"]: document for document in documents}


def _unit() -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string((DEPLOY / "unfreeze.service").read_text())
    return unit


def _parsed(arguments: list[str]) -> tuple[ServeOptions, LogOptions]:
    _, bound, _ = app.parse_args(["serve", *arguments], exit_on_error=False, print_error=False)
    return bound.arguments["options"], bound.arguments["logs"]


def _container() -> dict[str, Any]:
    (container,) = _manifests()["Deployment"]["spec"]["template"]["spec"]["containers"]
    return dict(container)


def _unit_arguments() -> list[str]:
    return _unit()["Service"]["ExecStart"].split()[2:]


@pytest.mark.parametrize(
    ("arguments", "public"), [(_container()["args"], True), (_instruction("CMD"), True), (_unit_arguments(), False)]
)
def test_the_server_accepts_the_arguments(arguments: list[str], public: bool) -> None:  # noqa: FBT001
    """Each example logs JSON, does not let clients load models, and listens on the intended addresses."""
    options, logs = _parsed(arguments)
    assert logs.log_format == "json"
    assert not options.admin
    assert options.insecure == public
    assert options.host == ("0.0.0.0" if public else "127.0.0.1")  # noqa: S104 - in a container
    assert (options.port, options.metrics_port) == (8001, 8002)


@pytest.mark.parametrize("name", ["Dockerfile", "kubernetes.yaml", "unfreeze.service", "../operations.md"])
def test_every_flag_exists(name: str) -> None:
    """All flags, also in comments, are in `unfreeze serve --help`."""
    known = set(FLAG.findall(run_cli("serve", "--help").stdout))
    text = _without_lines((DEPLOY / name).read_text(), "pip ", "useradd", "HEALTHCHECK --")
    found = set(FLAG.findall(text)) - DOCKER_FLAGS
    assert found
    assert found <= known | {"--help"}


def test_the_dockerfile_health_check(server: RunningServer) -> None:
    """Its command exits with 0 if a server is healthy, and with another code if there is none."""
    python, *arguments = _instruction(r"CMD(?= \[\"python)")
    assert python == "python"
    for port, healthy in ((server.target.rpartition(":")[2], True), ("1", False)):
        command = [sys.executable, *(argument.replace("8001", port) for argument in arguments)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        assert (done.returncode == 0) == healthy


def test_kubernetes_waits_for_the_server_to_drain() -> None:
    """The grace period covers the preStop delay, the drain and ten seconds; probes use gRPC health checks."""
    pod, container = _manifests()["Deployment"]["spec"]["template"]["spec"], _container()
    options, _ = _parsed(container["args"])
    pre_stop_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= pre_stop_s + options.drain_s + 10
    assert pod["enableServiceLinks"] is False
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"] == {"port": options.port}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": options.port, "metrics": options.metrics_port}
    service = _manifests()["Service"]["spec"]
    assert {port["targetPort"] for port in service["ports"]} == ports.keys()
    assert service["selector"] == _manifests()["Deployment"]["spec"]["template"]["metadata"]["labels"]


def test_systemd_waits_for_the_server_to_drain() -> None:
    """The unit uses readiness and watchdog notifications, and its stop timeout covers the drain."""
    service = _unit()["Service"]
    options, _ = _parsed(_unit_arguments())
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) >= 10
    assert int(service["TimeoutStopSec"]) >= options.drain_s + 10
    assert "AF_UNIX" in service["RestrictAddressFamilies"].split()  # for notifications


@pytest.fixture(scope="module")
def samples(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, AbstractSet[str]]:
    """The labels of every sample in /metrics."""
    with logged_server(repository, tmp_path_factory.mktemp("logs") / "log") as logged:
        url = logged.metrics_url()
        with urlopen(url, timeout=10) as response:  # noqa: S310 - our own server
            families = list(text_string_to_metric_families(response.read().decode()))
    found: dict[str, AbstractSet[str]] = {
        sample.name: sample.labels.keys() for family in families for sample in family.samples
    }
    # No request has failed yet, and no traffic is divided; the tests of metrics and of traffic check the labels.
    unused: dict[str, AbstractSet[str]] = {
        "nv_inference_request_failure": {"model", "version", "reason"},
        "unfreeze_request_errors_total": {"status"},
        "unfreeze_traffic_share": {"model", "version"},
        "unfreeze_shadow_disagreement": {"model", "version"},
        "unfreeze_traffic_decisions_total": {"model", "version", "action"},
    }
    assert {name.removesuffix("_total") for name in unused} <= {family.name for family in families}
    return found | unused


def test_the_dashboard_uses_existing_metrics(samples: dict[str, AbstractSet[str]]) -> None:
    """Every metric and label in its queries is in /metrics; it shows every stage and the failures."""
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [variable["query"].replace("label_values", "") for variable in dashboard["templating"]["list"][1:]]
    used = {name for query in queries for name in re.findall(r"\b(?:nv|unfreeze|process)_\w+", query)}
    assert used <= samples.keys()
    assert used >= {
        "nv_inference_request_success",
        "nv_inference_request_failure",
        "nv_inference_exec_count",
        "nv_inference_pending_request_count",
        *(f"unfreeze_{stage}_duration_seconds_bucket" for stage in ("queue", "decode", "infer", "request")),
    }
    for query in queries:
        labels = {label for text in re.findall(r"by \(([^)]*)\)", query) for label in text.split(", ")}
        for name in used & set(re.findall(r"\w+", query)):
            assert labels <= samples[name], query
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_alerts_use_existing_metrics(samples: dict[str, AbstractSet[str]]) -> None:
    """Every metric and label of the rules is in /metrics, and a label in a text is one that its rule keeps."""
    rules = yaml.safe_load((DEPLOY / "prometheus-rules.yaml").read_text())["groups"][0]["rules"]
    assert "UnfreezeDrift" in {rule["alert"] for rule in rules}
    for rule in rules:
        used = set(re.findall(r"\b(?:nv|unfreeze)_\w+", rule["expr"]))
        kept = {label for text in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in text.split(", ")}
        assert used
        assert used <= samples.keys()
        assert all(kept <= samples[name] for name in used if "quantity" not in kept)
        assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= kept


def test_alerts_are_valid_for_prometheus() -> None:
    """Prometheus' own program accepts them."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool, which comes with Prometheus")
    checked = subprocess.run(
        [promtool, "check", "rules", DEPLOY / "prometheus-rules.yaml"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def _autoscaling(name: str) -> dict[str, Any]:
    document = yaml.safe_load((DEPLOY / name).read_text())
    return dict(document)


@pytest.mark.parametrize("name", ["keda.yaml", "prometheus-adapter.yaml"])
def test_autoscaling_uses_existing_metrics(name: str, samples: dict[str, AbstractSet[str]]) -> None:
    """Every metric in the queries is in /metrics, and labels that the server sets have values that it uses."""
    text = _without_lines((DEPLOY / name).read_text(), "^ *#", "as: ")
    used = set(re.findall(r"\b(?:nv|unfreeze)_\w+", text))
    assert "nv_inference_pending_request_count" in used
    assert used <= samples.keys()
    for metric, matchers in re.findall(r"(\w+)\{([^}]*)\}", text):
        labels = set(re.findall(r"(\w+)!?=", matchers)) - {"app", "namespace", "pod"}  # those Prometheus sets
        assert labels <= samples.get(metric, set())


def test_autoscalers_scale_the_deployment_in_the_same_way() -> None:
    """KEDA's and Kubernetes' autoscaler name the Deployment, its least replicas, the metric, and equal limits."""
    keda, hpa = _autoscaling("keda.yaml")["spec"], _autoscaling("hpa.yaml")["spec"]
    deployment = _manifests()["Deployment"]
    assert keda["scaleTargetRef"]["name"] == hpa["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert {key: hpa["scaleTargetRef"][key] for key in ("apiVersion", "kind")} == {
        key: deployment[key] for key in ("apiVersion", "kind")
    }
    assert keda["minReplicaCount"] == hpa["minReplicas"] == deployment["spec"]["replicas"]
    assert keda["maxReplicaCount"] == hpa["maxReplicas"]
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["behavior"]
    (metric,) = hpa["metrics"]
    (rule,) = _autoscaling("prometheus-adapter.yaml")["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    pending = keda["triggers"][0]["metadata"]
    assert pending["threshold"] == metric["pods"]["target"]["averageValue"]
    cores = int(_container()["resources"]["requests"]["cpu"])
    assert int(pending["threshold"]) == 4 * cores
    assert keda["minReplicaCount"] < keda["fallback"]["replicas"] < keda["maxReplicaCount"]
