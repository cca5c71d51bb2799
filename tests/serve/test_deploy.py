"""The examples of docs/deploy: well-formed, and of this server's options and metrics."""

import configparser
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support.logged import logged_server
from support.servers import RunningServer

from unfreeze.command import app
from unfreeze.serve.observability.logs import LogOptions
from unfreeze.serve.options import ServeOptions

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
OF_DOCKER = {"--rm", "--time", "--from", "--mount"}  # in the examples of its comments, and in its own language


def _without(text: str, *lines_of: str) -> str:
    return "\n".join(line for line in text.splitlines() if not re.search("|".join(lines_of), line))


def _instruction(name: str) -> list[str]:
    """Give an instruction of the Dockerfile that is written as JSON."""
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
def test_the_commands_are_ones_that_the_server_takes(arguments: list[str], public: bool) -> None:  # noqa: FBT001
    """Each example's arguments are read without an error, log JSON, let no caller load models, and bind as they say."""
    options, logs = _parsed(arguments)
    assert logs.log_format == "json"
    assert not options.admin
    assert options.insecure == public
    assert options.host == ("0.0.0.0" if public else "127.0.0.1")  # noqa: S104 - in a container
    assert (options.port, options.metrics_port) == (8001, 8002)


@pytest.mark.parametrize("name", ["Dockerfile", "kubernetes.yaml", "unfreeze.service", "../operations.md"])
def test_every_flag_exists(name: str) -> None:
    """Whatever is called by its flag, in a comment too, stands in `unfreeze serve --help`."""
    command = [sys.executable, "-m", "unfreeze.command", "serve", "--help"]
    known = set(FLAG.findall(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout))
    text = _without((DEPLOY / name).read_text(), "pip ", "useradd", "HEALTHCHECK --")
    found = set(FLAG.findall(text)) - OF_DOCKER
    assert found
    assert found <= known | {"--help"}


def test_the_containers_health_check_tells_health(server: RunningServer) -> None:
    """The Dockerfile's own command ends with 0 beside a server, and not with 0 where there is none."""
    python, *arguments = _instruction(r"CMD(?= \[\"python)")
    assert python == "python"
    for port, healthy in ((server.target.rpartition(":")[2], True), ("1", False)):
        command = [sys.executable, *(argument.replace("8001", port) for argument in arguments)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        assert (done.returncode == 0) == healthy


def test_kubernetes_waits_for_the_server_to_drain() -> None:
    """The grace period holds the wait before SIGTERM, the drain and ten seconds; probes ask over gRPC."""
    pod, container = _manifests()["Deployment"]["spec"]["template"]["spec"], _container()
    options, _ = _parsed(container["args"])
    waited = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= waited + options.drain_s + 10
    assert pod["enableServiceLinks"] is False
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"] == {"port": options.port}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": options.port, "metrics": options.metrics_port}
    served = _manifests()["Service"]["spec"]
    assert {port["targetPort"] for port in served["ports"]} == ports.keys()
    assert served["selector"] == _manifests()["Deployment"]["spec"]["template"]["metadata"]["labels"]


def test_systemd_waits_for_the_server_to_drain() -> None:
    """The unit is told by the server when it is ready and alive, and leaves it the time to drain."""
    service = _unit()["Service"]
    options, _ = _parsed(_unit_arguments())
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) >= 10
    assert int(service["TimeoutStopSec"]) >= options.drain_s + 10
    assert "AF_UNIX" in service["RestrictAddressFamilies"].split()  # to speak to systemd


def test_the_dashboard_shows_metrics_that_there_are(repository: Path, tmp_path: Path) -> None:
    """Every metric and label of the dashboard's queries is one of /metrics; every stage and the failures are shown."""
    with logged_server(repository, tmp_path / "log") as logged:
        url = logged.metrics_url()
        with urlopen(url, timeout=10) as response:  # noqa: S310 - our own server
            families = list(text_string_to_metric_families(response.read().decode()))
    samples = {sample.name: sample.labels.keys() for family in families for sample in family.samples}
    # Nothing has failed yet; tests/serve/test_metrics.py sees its labels.
    samples["nv_inference_request_failure"] = {"model", "version", "reason"}
    assert "nv_inference_request_failure" in {family.name for family in families}
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [one["query"].replace("label_values", "") for one in dashboard["templating"]["list"][1:]]
    used = {name for query in queries for name in re.findall(r"\b(?:nv|unfreeze|process)_\w+", query)}
    assert used <= samples.keys()
    assert used >= {
        "nv_inference_request_success",
        "nv_inference_request_failure",
        "nv_inference_exec_count",
        "nv_inference_pending_request_count",
        *(f"unfreeze_{stage}_seconds_bucket" for stage in ("queue", "decode", "infer", "request")),
    }
    for query in queries:
        labels = {one for text in re.findall(r"by \(([^)]*)\)", query) for one in text.split(", ")}
        for name in used & set(re.findall(r"\w+", query)):
            assert labels <= samples[name], query
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
