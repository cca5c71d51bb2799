"""With several processes, front ends choose versions and the process of the models runs the shadow."""

import json
import re
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import psutil
import pytest
from support.canaries import BRIGHT, DARK, MODEL, publish_shades
from support.servers import RunningServer, running_server
from support.traffic import infer, predict, set_traffic, traffic, until

from unfreeze.protos import unfreeze_pb2 as pb

pytestmark = pytest.mark.xdist_group("serve")

CHANNELS = 10  # the kernel spreads them; that all reach the same of two processes happens once in 512 times
COUNTS_S = 1.5  # more than the age of the counters of other processes
ONE_INSTANCE = ("--instances", "1", "--threads", "1")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of three versions."""
    return publish_shades(tmp_path_factory.mktemp("traffic") / "models", ["good", "other", "failing"])


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[RunningServer]:
    """A server with two front-end processes, a split and a shadow."""
    traffic = "--split", f"{MODEL}=1:50,2:50", "--shadow", f"{MODEL}=3:100"
    with running_server(root, "--frontends", "2", "--poll-s", "0.1", *ONE_INSTANCE, *traffic) as running:
        yield running


@pytest.fixture(scope="module")
def channels(server: RunningServer) -> Iterator[list[grpc.Channel]]:
    """Connections that reach both front ends."""
    own = [("grpc.use_local_subchannel_pool", 1)]
    with ExitStack() as stack:
        yield [stack.enter_context(grpc.insecure_channel(server.target, own)) for _ in range(CHANNELS)]


def test_a_key_gets_the_same_version_from_every_process(channels: list[grpc.Channel]) -> None:
    """Over every connection, for encoded images and for pixels."""
    found = {}
    for key in (f"key-{number}" for number in range(8)):
        versions = {predict(channel, key) for channel in channels} | {infer(channels[0], identity=key)}
        assert len(versions) == 1, (key, versions)
        found[key] = versions.pop()
    assert set(found.values()) == {"1", "2"}


def test_shares_and_shadows_of_all_processes(server: RunningServer, channels: list[grpc.Channel]) -> None:
    """The split holds over all of them, and every copy of the stable version's requests is accounted for."""
    time.sleep(COUNTS_S)
    before = _counts(channels[0])
    images = [DARK, BRIGHT] * 100
    found = Counter(predict(channels[number % CHANNELS], image=image) for number, image in enumerate(images))
    assert abs(found["2"] - 100) < 5 * (200 * 0.25) ** 0.5
    stable = before["requests"] + found["1"]
    until(lambda: _counts(channels[0])["requests"] == stable)
    until(lambda: _counts(channels[0])["seen"] == stable)
    shadow = traffic(channels[0]).versions[2].shadow
    assert shadow.different == shadow.mean_difference == 0
    assert shadow.same > 0
    assert shadow.failed > 0
    metrics = _metrics(server)
    assert f'unfreeze_traffic_share{{model="{MODEL}",version="1"}} 0.5' in metrics
    assert re.search(
        rf'unfreeze_shadow_images_total{{model="{MODEL}",outcome="same",version="3"}} {shadow.same}', metrics
    )


def test_set_by_a_request_and_by_a_file(root: Path, channels: list[grpc.Channel]) -> None:
    """All front ends follow; what is refused changes nothing; a rule counts the requests of all of them."""
    with pytest.raises(grpc.RpcError, match="has no version 9") as refused:
        set_traffic(channels[0], split={"9": 1})
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    assert set_traffic(channels[0], split={"2": 1}).stored
    until(lambda: {predict(channel) for channel in channels} == {"2"})
    file = root / MODEL / "traffic.json"
    assert json.loads(file.read_text())["split"] == {"2": 1}
    file.write_text(json.dumps({"split": {"1": 1}}))
    until(lambda: {predict(channel) for channel in channels} == {"1"})
    set_traffic(channels[0], split={"1": 50, "3": 50}, rule=pb.TrafficRule(max_error_rate=0.05))

    def is_decided() -> bool:
        for channel in channels:
            try:
                predict(channel, image=BRIGHT)
            except grpc.RpcError:
                continue  # version 3 fails
        return traffic(channels[0]).HasField("decision")

    until(is_decided)
    assert traffic(channels[0]).decision.action == "taken back"
    until(lambda: {predict(channel, image=BRIGHT) for channel in channels} == {"1"})


def _counts(channel: grpc.Channel) -> dict[str, int]:
    found = traffic(channel)
    shadow = found.versions[2].shadow
    return {
        "requests": found.versions[0].requests,
        "seen": shadow.same + shadow.different + shadow.failed + shadow.dropped,
    }


def _metrics(server: RunningServer) -> str:
    grpc_port = int(server.target.rpartition(":")[2])
    ports = {
        one.laddr.port
        for process in psutil.Process(server.process.pid).children()
        for one in process.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    }
    (port,) = ports - {grpc_port}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return str(response.read().decode())
