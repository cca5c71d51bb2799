"""A shadow classifies copies, is compared, and harms nobody: not when it fails, and not when the machine is busy."""

import json
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.canaries import BRIGHT, DARK, MODEL
from support.traffic import (
    classify_http,
    infer,
    infer_http,
    predict,
    predict_stream,
    serving,
    set_traffic,
    traffic,
    until,
)

from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.server import Server
from unfreeze.serve.traffic import shadow as shadow_module

pytestmark = pytest.mark.xdist_group("serve")

Publish = Callable[..., Path]
ALL = (f"{MODEL}=2:100",)


def _shadow(channel: grpc.Channel, version: str = "2") -> pb.TrafficShadow:
    (found,) = [one.shadow for one in traffic(channel).versions if one.version == version]
    return found


def _seen(found: pb.TrafficShadow) -> int:
    return found.same + found.different + found.dropped + found.failed


def test_copies_of_every_protocol_are_compared(repository: Publish) -> None:
    """The older version answers although the shadow is newer; the other label and the difference are counted."""
    with serving(repository("good", "other"), shadow=ALL) as (server, channel):
        versions = [predict(channel), *predict_stream(channel, "", 2), infer(channel), infer_http(server, "")]
        versions += [classify_http(server), predict(channel, image=BRIGHT)]
        assert set(versions) == {"1"}
        until(lambda: _seen(_shadow(channel)) == len(versions))
        found = _shadow(channel)
        assert (found.same, found.different, found.failed, found.dropped) == (0, 7, 0, 0)
        assert found.disagreement == 1.0
        assert found.mean_difference == pytest.approx(1.0, abs=1e-3)


def test_the_share_of_copies(repository: Publish) -> None:
    """Of 300 requests, 20 % are copied, within five standard deviations; those that name a version are not."""
    with serving(repository("good", "good"), shadow=(f"{MODEL}=2:20",)) as (_, channel):
        for _ in range(300):
            predict(channel)
        before = _seen(_shadow(channel))
        for version in ("1", "2") * 10:
            predict(channel, version=version)
        until(lambda: _seen(_shadow(channel)) >= before)
        time.sleep(0.1)
        found = _shadow(channel)
        assert abs(_seen(found) - 60) < 5 * (300 * 0.2 * 0.8) ** 0.5
        assert found.different == found.failed == 0


def test_a_shadow_that_raises(repository: Publish) -> None:
    """Callers get their answers, and the failures are counted."""
    with serving(repository("good", "failing"), shadow=ALL) as (_, channel):
        for image in [DARK, BRIGHT] * 10:
            assert predict(channel, image=image) == "1"
        until(lambda: _seen(_shadow(channel)) == 20)
        found = _shadow(channel)
        assert (found.same, found.failed) == (10, 10)
        assert [one.errors for one in traffic(channel).versions] == [0, 0]


def test_a_shadow_that_hangs(repository: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets no more images, callers are answered, and the server still ends."""
    monkeypatch.setattr(shadow_module, "_MAX_RUN_S", 0.2)
    with serving(repository("good", "good"), shadow=ALL) as (server, channel):
        _of(server, "2")._runtime.run = lambda _: time.sleep(3)
        for _ in range(5):
            assert predict(channel) == "1"
        until(lambda: _seen(_shadow(channel)) == 5)
        found = _shadow(channel)
        assert (found.failed, found.dropped) == (1, 4)


def test_a_busy_machine_drops_copies_first(repository: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many images of callers as cores, none is copied; callers are answered, and copies do not pile up."""
    monkeypatch.setattr(shadow_module, "_MAX_WAIT_S", 0.2)
    with serving(repository("good", "good"), shadow=ALL) as (server, channel):
        shadows = server._models.served_traffic.shadows
        free, shadows.pending = shadows.pending, lambda: 1000
        for _ in range(100):
            assert predict(channel) == "1"
            assert shadows._images <= 64
        until(lambda: _seen(_shadow(channel)) == 100)
        assert _shadow(channel).dropped == 100
        shadows.pending = free
        predict(channel)
        until(lambda: _shadow(channel).same == 1)


def test_under_load_callers_lose_nothing(repository: Publish) -> None:
    """Eight callers of a slow shadow: every request is answered by the stable version, and copies are dropped."""
    with serving(repository("good", "slow"), shadow=ALL) as (_, channel), ThreadPoolExecutor(8) as callers:
        found = Counter(callers.map(lambda _: predict(channel), range(400)))
        assert found == {"1": 400}
        until(lambda: _seen(_shadow(channel)) == 400)
        counts = _shadow(channel)
        assert counts.dropped > 0
        assert counts.failed == counts.different == 0


def test_a_shadow_is_unloaded_while_copies_wait(repository: Publish) -> None:
    """When the traffic is set anew, the version is closed after its copies, and callers notice nothing."""
    with serving(repository("good", "slow"), shadow=ALL) as (server, channel):
        for _ in range(20):
            predict(channel)
        set_traffic(channel, split={"1": 1})
        assert predict(channel) == "1"
        until(lambda: not server._models._closing)


def test_metrics(repository: Publish) -> None:
    """Shares in force, outcomes of images by version, and how far answers are apart."""
    split = (f"{MODEL}=1:75,3:25",)
    with serving(repository("good", "other", "good"), split=split, shadow=ALL, metrics=True, metrics_port=0) as (
        server,
        channel,
    ):
        for _ in range(20):
            predict(channel)
        copied = next(one.requests for one in traffic(channel).versions if one.version == "1")
        until(lambda: _seen(_shadow(channel)) == copied)
        found = _metrics(server)
    assert found["unfreeze_traffic_share", "1", ""] == 0.75
    assert found["unfreeze_traffic_share", "3", ""] == pytest.approx(0.25)
    assert found["unfreeze_shadow_share", "2", ""] == 1.0
    assert found["unfreeze_shadow_images_total", "2", "different"] == copied
    assert found["unfreeze_shadow_images_total", "2", "failed"] == 0
    assert found["unfreeze_shadow_disagreement", "2", ""] == 1.0
    assert found["unfreeze_shadow_mean_difference", "2", ""] == pytest.approx(1.0, abs=1e-3)


def _of(server: Server, version: str) -> object:
    return server._models.find(MODEL, version)


def _metrics(server: Server) -> dict[tuple[str, str, str], float]:
    assert server._metrics is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{server._metrics.port}/metrics", timeout=10) as response:
        text = response.read().decode()
    return {
        (sample.name, sample.labels.get("version", ""), sample.labels.get("outcome", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_an_image_on_which_a_shadow_disagrees_is_recorded(repository: Publish, tmp_path: Path) -> None:
    """With the answer that the caller got, if the caller allows it to be stored; the others are not."""
    options: dict[str, Any] = {"shadow": ALL, "record": str(tmp_path / "recorded"), "record_share": 0.0}
    with serving(repository("good", "other"), **options) as (_, channel):
        stub = ClassifierStub(channel)
        stub.Predict(pb.PredictRequest(model=MODEL, images=[BRIGHT]))
        stub.Predict(pb.PredictRequest(model=MODEL, images=[DARK]), metadata=[("x-unfreeze-store", "yes")])
        until(lambda: _seen(_shadow(channel)) == 2)
        until(lambda: len(list((tmp_path / "recorded").glob("*/*/??/*.json"))) == 1)
    (file,) = (tmp_path / "recorded").glob("*/*/??/*.json")
    found = json.loads(file.read_text())
    assert (found["version"], found["reasons"]) == ("1", ["disagreement"])
    assert file.with_suffix(".png").read_bytes() == DARK
