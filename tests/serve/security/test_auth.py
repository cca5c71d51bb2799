"""Token authentication and --no-admin, over every kind of method."""

import logging
import queue
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from support.logged import logged_server
from support.servers import server_thread

from unfreeze.contract.errors import OptionsError
from unfreeze.protos import open_inference_pb2, unfreeze_pb2
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.security.auth import read_tokens

pytestmark = pytest.mark.xdist_group("serve")

TOKENS = ("b5e0c2f1", "dGhlIG90aGVyIG9uZQ==")
Metadata = tuple[tuple[str, str], ...]
Call = Callable[[grpc.Channel, Metadata], object]


@pytest.fixture(scope="module")
def protected_server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that requires a token, and does not let clients load or unload models."""
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text("\n".join([TOKENS[0], "", f"  {TOKENS[1]}  ", ""]))
    path.chmod(0o600)
    with server_thread(repository, token_file=path, insecure=True, admin=False) as target:
        yield target


@pytest.fixture(scope="module")
def channel(protected_server: str) -> Iterator[grpc.Channel]:
    """A channel to this server."""
    with grpc.insecure_channel(protected_server) as connected:
        yield connected


def _bearer(token: str, scheme: str = "Bearer") -> Metadata:
    return (("authorization", f"{scheme} {token}"),)


def _list_models(channel: grpc.Channel, metadata: Metadata) -> object:
    return ClassifierStub(channel).ListModels(unfreeze_pb2.ListModelsRequest(), metadata=metadata, timeout=20)


def _infer(channel: grpc.Channel, metadata: Metadata) -> object:
    request = open_inference_pb2.ModelInferRequest(
        model_name="colors.encoded", raw_input_contents=[struct.pack("<I", 1) + b"x"]
    )
    return GRPCInferenceServiceStub(channel).ModelInfer(request, metadata=metadata, timeout=20)


def _predict_stream(channel: grpc.Channel, metadata: Metadata) -> object:
    requests = iter([unfreeze_pb2.PredictRequest()])
    return next(ClassifierStub(channel).PredictStream(requests, metadata=metadata, timeout=20))


def _reflect(channel: grpc.Channel, metadata: Metadata) -> object:
    requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    return next(ServerReflectionStub(channel).ServerReflectionInfo(requests, metadata=metadata, timeout=20))


def _unknown(channel: grpc.Channel, metadata: Metadata) -> object:
    return channel.unary_unary("/grpc.health.v1.Healthy/Check")(b"", metadata=metadata, timeout=20)


@pytest.mark.parametrize("call", [_list_models, _infer, _predict_stream, _reflect, _unknown])
@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ((), "a token is required, and the request has none; send the metadata `authorization: Bearer TOKEN`"),
        (_bearer("b5e0c2f"), "invalid token; send the metadata"),
        (_bearer(""), "invalid token; send the metadata"),
        (_bearer(TOKENS[0], "Digest"), "invalid token; send the metadata"),
        ((("authorization", TOKENS[0]),), "invalid token; send the metadata"),
        (_bearer(TOKENS[0]) + _bearer("another"), "invalid token; send the metadata"),
    ],
)
def test_rejects_calls_without_a_valid_token(
    call: Call, metadata: Metadata, message: str, channel: grpc.Channel
) -> None:
    """Unary, streaming, reflection and unknown methods fail with UNAUTHENTICATED and how to send a token."""
    with pytest.raises(grpc.RpcError) as failed:
        call(channel, metadata)
    assert failed.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert message in failed.value.details()


@pytest.mark.parametrize("metadata", [_bearer(TOKENS[0]), _bearer(TOKENS[1]), _bearer(TOKENS[1], "bearer")])
def test_accepts_each_token_for_every_method(metadata: Metadata, channel: grpc.Channel) -> None:
    """With any token of the file, each call returns its own result or error."""
    assert [model.name for model in _list_models(channel, metadata).models] == ["colors"]
    assert "has no images" in _predict_stream(channel, metadata).error.message
    assert _reflect(channel, metadata).list_services_response.service
    for call, status in ((_infer, grpc.StatusCode.INVALID_ARGUMENT), (_unknown, grpc.StatusCode.UNIMPLEMENTED)):
        with pytest.raises(grpc.RpcError) as failed:
            call(channel, metadata)
        assert failed.value.code() == status


def test_rejects_calls_before_their_message_arrives(channel: grpc.Channel) -> None:
    """A call whose message is never sent is rejected too."""
    silent = channel.stream_unary("/unfreeze.v1.Classifier/Predict")
    never = iter(queue.Queue().get, b"")  # blocks forever
    with pytest.raises(grpc.RpcError) as failed:
        silent(never, timeout=20)
    assert failed.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_health_checks_need_no_token(channel: grpc.Channel) -> None:
    """Check and Watch accept calls without a token."""
    stub, request = HealthStub(channel), health_pb2.HealthCheckRequest(service="colors")
    serving = health_pb2.HealthCheckResponse.SERVING
    assert stub.Check(request, timeout=20).status == serving
    watch = stub.Watch(request, timeout=20)
    assert next(watch).status == serving
    watch.cancel()


@pytest.mark.parametrize("name", ["Load", "Unload"])
def test_no_admin_forbids_loading_and_unloading(name: str, channel: grpc.Channel) -> None:
    """With --no-admin, calls with a valid token fail with PERMISSION_DENIED, and the model stays loaded."""
    method = getattr(GRPCInferenceServiceStub(channel), f"RepositoryModel{name}")
    request = getattr(open_inference_pb2, f"RepositoryModel{name}Request")(model_name="colors")
    with pytest.raises(grpc.RpcError) as failed:
        method(request, metadata=_bearer(TOKENS[0]), timeout=20)
    assert failed.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert "clients may not load or unload models on this server" in failed.value.details()
    (model,) = _list_models(channel, _bearer(TOKENS[0])).models
    assert model.state == "READY"


def test_log_contains_no_token(repository: Path, tmp_path: Path) -> None:
    """Neither valid nor invalid tokens are logged; a token file that all users can read causes a warning."""
    path = tmp_path / "tokens"
    path.write_text(TOKENS[0])
    path.chmod(0o644)
    arguments = ("--token-file", str(path), "--insecure", "--instances", "1", "--log-level", "debug")
    with logged_server(repository, tmp_path / "log", *arguments) as logged:
        with grpc.insecure_channel(logged.server.target) as channel:
            _list_models(channel, _bearer(TOKENS[0]))
            with pytest.raises(grpc.RpcError):
                _list_models(channel, _bearer("a-guess"))
        assert logged.server.terminate() == 0
    log = logged.log.read_text()
    assert "is readable by all users of this machine" in log
    assert not any(token in log for token in (TOKENS[0], "a-guess"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read --token-file .*tokens: No such file"),
        ("", "tokens contains no token; write one token per line"),
        (" \n\n", "tokens contains no token; write one token per line"),
        ("fine\n\nsecret one\n", "tokens, line 3: invalid token; a token consists of"),
        ("secr\N{LATIN SMALL LETTER E WITH ACUTE}t", "tokens, line 1: invalid token; a token consists of"),
        ("# secret", "tokens, line 1: invalid token; a token consists of"),
    ],
)
def test_rejects_invalid_token_files(content: str | None, message: str, tmp_path: Path) -> None:
    """The error names the line, but does not contain its text."""
    path = tmp_path / "tokens"
    if content is not None:
        path.write_text(content)
    with pytest.raises(OptionsError, match=message) as failed:
        read_tokens(path)
    assert "secr" not in str(failed.value)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True)])
def test_warns_if_all_users_can_read_the_token_file(
    mode: int, *, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file is read nevertheless."""
    path = tmp_path / "tokens"
    path.write_text("one\r\n two \n")
    path.chmod(mode)
    with caplog.at_level(logging.WARNING, logger="unfreeze.serve.security.auth"):
        assert read_tokens(path) == ("one", "two")
    assert bool(caplog.records) == warned
