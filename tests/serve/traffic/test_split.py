"""Requests that name no version are divided as it was set, at the start and while the server runs."""

import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from support.canaries import MODEL, publish_shades
from support.traffic import (
    classify_http,
    infer,
    infer_http,
    infer_stream,
    predict,
    predict_stream,
    serving,
    set_traffic,
    traffic,
    until,
)

from unfreeze.contract.errors import OptionsError
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.options import ServeOptions

pytestmark = pytest.mark.xdist_group("serve")

Publish = Callable[..., Path]
HALF = (f"{MODEL}=1:50,2:50",)


def _write(repository: Path, document: object) -> None:
    """Replace the file of the model as an editor or a program does."""
    file = repository / MODEL / "new.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    file.replace(repository / MODEL / "traffic.json")


def test_shares_are_kept(repository: Publish) -> None:
    """Of 400 requests without a key, 30 % get version 2, within five standard deviations; both stay loaded."""
    with serving(repository("good", "other", "good"), split=(f"{MODEL}=1:70,2:30",)) as (_, channel):
        found = Counter(predict(channel) for _ in range(400))
        shares = {one.version: (one.share, one.requests) for one in traffic(channel).versions}
    assert set(found) == {"1", "2"}
    assert abs(found["2"] - 120) < 5 * (400 * 0.3 * 0.7) ** 0.5
    assert shares == {"1": (pytest.approx(0.7), found["1"]), "2": (pytest.approx(0.3), found["2"]), "3": (0, 0)}


def test_a_key_gets_the_same_version_over_every_protocol(repository: Publish) -> None:
    """Keys meet both versions, and each of them always the same: gRPC, streams and HTTP."""
    with serving(repository("good", "other"), split=HALF) as (server, channel):
        found = {}
        for key in (f"key-{number}" for number in range(12)):
            versions = {
                predict(channel, key),
                *predict_stream(channel, key, 3),
                infer(channel, key),
                infer(channel, key, identity="another"),
                infer(channel, identity=key),
                *infer_stream(channel, [key, key]),
                classify_http(server, key),
                infer_http(server, key),
            }
            assert len(versions) == 1, (key, versions)
            found[key] = versions.pop()
    assert set(found.values()) == {"1", "2"}


def test_messages_of_a_stream_are_divided_by_their_ids(repository: Publish) -> None:
    """The key of one message is not that of the next."""
    with serving(repository("good", "other"), split=HALF) as (_, channel):
        names = [f"id-{number}" for number in range(20)]
        found = infer_stream(channel, names)
        assert found == [infer(channel, identity=name) for name in names]
        assert set(found) == {"1", "2"}


def test_a_request_that_names_a_version_gets_it(repository: Publish) -> None:
    """Also one without a share, and the newest by `--versions`."""
    with serving(repository("good", "other", "good"), split=(f"{MODEL}=1:100,2:0",)) as (_, channel):
        assert [predict(channel, version=one) for one in ("1", "2", "3", "")] == ["1", "2", "3", "1"]
        described = ClassifierStub(channel).DescribeModel(pb.DescribeModelRequest())
        assert described.version == "1"


def test_a_version_that_is_not_loaded(repository: Publish, caplog: pytest.LogCaptureFixture) -> None:
    """Its share goes to the others, and the log says so once; when it is published, it gets its share."""
    root = repository("good")
    with caplog.at_level(logging.WARNING), serving(root, split=(f"{MODEL}=1:50,2:50",)) as (_, channel):
        assert {predict(channel) for _ in range(20)} == {"1"}
        publish_shades(root, ["other"])
        until(lambda: predict(channel) == "2")
        assert {predict(channel) for _ in range(40)} == {"1", "2"}
    said = [one.message for one in caplog.records if "is not loaded" in one.message]
    assert said == [f"model {MODEL} version 2 is not loaded: its share of the traffic goes to others"]


def test_set_while_the_server_runs(repository: Publish) -> None:
    """Versions are loaded for it, the file keeps it, and a restart has it."""
    root = repository("good", "other", "good")
    with serving(root) as (_, channel):
        assert predict(channel) == "3"
        found = set_traffic(channel, split={"1": 1, "2": 1})
        assert (found.stable, found.stored, dict(found.split)) == ("1", True, {"1": 1, "2": 1})
        assert {predict(channel) for _ in range(40)} == {"1", "2"}
    assert json.loads((root / MODEL / "traffic.json").read_text()) == {"split": {"1": 1, "2": 1}, "shadow": {}}
    with serving(root, split=(f"{MODEL}=3:1",)) as (_, channel):
        assert {predict(channel) for _ in range(40)} == {"1", "2"}
        set_traffic(channel)
        assert predict(channel) == "3"
        assert [one.version for one in traffic(channel).versions] == ["3"]


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"split": {"9": 1}}, "NOT_FOUND", f"model {MODEL} has no version 9 in the repository; versions: 1, 2, 3"),
        ({"split": {"1": 1, "3": 1}}, "FAILED_PRECONDITION", "is not the file that was published"),
        ({"split": {"1": -1}}, "INVALID_ARGUMENT", "split: the share of version 1 must be from 0 to 1,000,000, got -1"),
        (
            {"rule": pb.TrafficRule(action="explode")},
            "INVALID_ARGUMENT",
            "expected one of 'promote', 'take-back', 'both'",
        ),
        ({"model": "roses", "split": {"1": 1}}, "NOT_FOUND", "unknown model 'roses'"),
    ],
)
def test_what_is_refused_changes_nothing(
    repository: Publish, fields: dict[str, object], code: str, message: str
) -> None:
    """The message says why, and the state before stays: in force, in the file, and loaded."""
    root = repository("good", "other", "good")
    broken = root / MODEL / "3" / "model.onnx"
    broken.write_bytes(broken.read_bytes() + b"x")
    with serving(root, split=HALF) as (_, channel):
        with pytest.raises(grpc.RpcError) as refused:
            set_traffic(channel, **fields)
        assert refused.value.code().name == code
        assert message in refused.value.details()
        assert {predict(channel) for _ in range(40)} == {"1", "2"}
        assert not traffic(channel).stored
    assert not (root / MODEL / "traffic.json").exists()


def test_without_admin_the_traffic_can_only_be_read(repository: Publish) -> None:
    """As models cannot be loaded or unloaded."""
    with serving(repository("good"), admin=False) as (_, channel):
        with pytest.raises(grpc.RpcError, match="--no-admin") as refused:
            set_traffic(channel, split={"1": 1})
        assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
        assert traffic(channel).stable == "1"


def test_a_file_while_the_server_runs(repository: Publish, caplog: pytest.LogCaptureFixture) -> None:
    """A valid one is followed, an invalid one is reported once and changes nothing, and without it the options hold."""
    root = repository("good", "other", "good")
    with caplog.at_level(logging.ERROR), serving(root, split=(f"{MODEL}=3:1",)) as (_, channel):
        assert predict(channel) == "3"
        _write(root, {"split": {"2": 1}})
        until(lambda: predict(channel) == "2")
        for document, problem in (
            ("{", "not valid JSON"),
            ({"split": {"2": "all"}}, "expected a number, got a string ('all') @ $.split.2"),
            ({"split": {"8": 1}}, f"model {MODEL} has no version 8 in the repository; versions: 1, 2, 3"),
        ):
            _write(root, document)
            until(lambda problem=problem: any(problem in one.message for one in caplog.records))
            assert predict(channel) == "2"
        until(lambda: len(caplog.records) >= 3)
        predict(channel)
        assert len(caplog.records) == 3
        (root / MODEL / "traffic.json").unlink()
        until(lambda: predict(channel) == "3")


def test_a_file_at_the_start(repository: Publish) -> None:
    """It goes before the options; a version that is gone leaves its share to the others."""
    root = repository("good", "other", "good")
    _write(root, {"split": {"1": 1, "2": 0.5, "7": 1}})
    with serving(root, split=(f"{MODEL}=3:1",)) as (_, channel):
        assert {predict(channel) for _ in range(60)} == {"1", "2"}


def test_a_repository_that_cannot_be_written(repository: Publish, caplog: pytest.LogCaptureFixture) -> None:
    """The traffic is set until the server ends, and both the answer and the log say so."""
    root = repository("good", "other")
    (root / MODEL / ".traffic.json.new").mkdir()  # in the place of the temporary file
    with caplog.at_level(logging.WARNING), serving(root) as (_, channel):
        assert not set_traffic(channel, split={"1": 1}).stored
        assert predict(channel) == "1"
    assert "cannot be written, so a restart forgets it" in caplog.text


def test_a_published_version_gets_nothing_of_a_split(repository: Publish) -> None:
    """It is loaded as the newest, and answers those that name it."""
    root = repository("good", "other")
    with serving(root, split=HALF) as (_, channel):
        publish_shades(root, ["good"])
        until(lambda: "3" in {one.version for one in traffic(channel).versions if one.loaded})
        assert {predict(channel) for _ in range(40)} == {"1", "2"}
        assert predict(channel, version="3") == "3"


def test_nothing_changes_without_a_split(repository: Publish) -> None:
    """The newest version answers alone, no thread is started, and no file is written."""
    root = repository("good", "other")
    with serving(root) as (server, channel):
        assert {predict(channel, key) for key in ("", "a", "b", "c")} == {"2"}
        found = traffic(channel)
        assert [(one.version, one.share, one.loaded) for one in found.versions] == [("2", 1.0, True)]
        assert (found.stable, found.stored, found.seconds) == ("2", False, 0.0)
        assert server._models.served_traffic.shadows._thread is None
        assert server._models._loaded.routes == {}
    assert not (root / MODEL / "traffic.json").exists()


def test_options_are_checked_before_anything_starts(tmp_path: Path) -> None:
    """A shadow that is the stable version is refused."""
    with pytest.raises(OptionsError, match="version 1 cannot be the shadow"):
        ServeOptions(repository=tmp_path, split=HALF, shadow=(f"{MODEL}=1:10",))
