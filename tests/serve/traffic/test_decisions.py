"""A rule promotes a version or takes it back while the server runs, and says why."""

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from support.canaries import BRIGHT, DARK, MODEL
from support.traffic import predict, serving, set_traffic, traffic, until

from unfreeze.protos import unfreeze_pb2 as pb

pytestmark = pytest.mark.xdist_group("serve")

Publish = Callable[..., Path]


def _send_until_decided(channel: grpc.Channel) -> pb.TrafficDecision:
    """Send requests until the rule has decided."""

    def is_decided() -> bool:
        for image in (DARK, BRIGHT) * 5:
            with contextlib.suppress(grpc.RpcError):  # of a version that fails
                predict(channel, image=image)
        return traffic(channel).HasField("decision")

    until(is_decided)
    return traffic(channel).decision


def test_a_failing_canary_is_taken_back(repository: Publish, caplog: pytest.LogCaptureFixture) -> None:
    """Its share becomes 0; the log, the answer and the file have the reason, and a restart keeps the decision."""
    root = repository("good", "failing")
    rule = pb.TrafficRule(max_error_rate=0.05, action="both", minimum_images=100_000)
    with caplog.at_level(logging.WARNING), serving(root) as (_, channel):
        set_traffic(channel, split={"1": 50, "2": 50}, rule=rule)
        decision = _send_until_decided(channel)
        assert (decision.action, decision.version) == ("taken back", "2")
        assert "requests failed, at most 5.00% may" in decision.reason
        assert {predict(channel, image=BRIGHT) for _ in range(30)} == {"1"}
    document = json.loads((root / MODEL / "traffic.json").read_text())
    assert (document["split"], document["decision"]["reason"]) == ({"1": 50, "2": 0}, decision.reason)
    assert f"model {MODEL} version 2 was taken back: {decision.reason}" in caplog.text
    with serving(root) as (_, channel):
        assert {predict(channel, image=BRIGHT) for _ in range(30)} == {"1"}
        assert traffic(channel).decision == decision


def test_a_good_canary_is_promoted(repository: Publish) -> None:
    """After enough images it gets all requests."""
    with serving(repository("good", "good")) as (server, channel):
        rule = pb.TrafficRule(max_error_rate=0.01, max_disagreement=0.1, minimum_images=20, action="both")
        set_traffic(channel, split={"1": 80, "2": 20}, shadow={"2": 100}, rule=rule)
        decision = _send_until_decided(channel)
        assert (decision.action, decision.version) == ("promoted", "2")
        assert "images classified; 0 of" in decision.reason
        assert {predict(channel) for _ in range(30)} == {"2"}
        found = traffic(channel)
        assert (dict(found.split), dict(found.shadow), found.stable) == ({"1": 0, "2": 100}, {}, "2")
        assert server._models.served_traffic.control.decisions == {(MODEL, "2", "promoted"): 1}


def test_a_shadow_that_disagrees_is_taken_back(repository: Publish) -> None:
    """Without a split, the stable version keeps all requests, although the shadow is newer."""
    with serving(repository("good", "other")) as (_, channel):
        set_traffic(channel, shadow={"2": 100}, rule=pb.TrafficRule(max_disagreement=0.1))
        decision = _send_until_decided(channel)
        assert (decision.action, decision.version) == ("taken back", "2")
        assert "images got another top label, at most 10.00% may" in decision.reason
        assert {predict(channel) for _ in range(20)} == {"1"}
        assert not traffic(channel).shadow


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_slow_canary_is_taken_back(repository: Publish) -> None:
    """Its 99th percentile is compared with the stable version's, after 100 requests of each."""
    with serving(repository("good", "slow")) as (_, channel):
        set_traffic(channel, split={"1": 50, "2": 50}, rule=pb.TrafficRule(max_p99_ratio=1.5))
        decision = _send_until_decided(channel)
        assert (decision.action, decision.version) == ("taken back", "2")
        assert "at most 1.5 times as long" in decision.reason


def test_a_file_may_have_the_rule(repository: Publish) -> None:
    """As it may have everything that a request sets."""
    root = repository("good", "failing")
    document = {"split": {"1": 50, "2": 50}, "rule": {"max_error_rate": 0.05}}
    (root / MODEL / "traffic.json").write_text(json.dumps(document))
    with serving(root) as (_, channel):
        assert _send_until_decided(channel).action == "taken back"
