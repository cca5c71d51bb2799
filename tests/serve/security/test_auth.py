"""Tokens: who may ask, what needs none, and what nobody may."""

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
from support.servers import RunningServer, running_server

from unfreeze.contract.errors import OptionsError
from unfreeze.protos import open_inference_pb2, unfreeze_pb2
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.security.auth import read_tokens

TOKENS = ("b5e0c2f1", "dGhlIG90aGVyIG9uZQ==")
Metadata = tuple[tuple[str, str], ...]
Call = Callable[[grpc.Channel, Metadata], object]


@pytest.fixture(scope="module")
def guarded(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that asks for tokens, and loads and unloads nothing for its callers."""
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text("\n".join([TOKENS[0], "", f"  {TOKENS[1]}  ", ""]))
    with running_server(
        repository, "--token-file", str(path), "--insecure", "--no-admin", "--instances", "1"
    ) as server:
        yield server


@pytest.fixture(scope="module")
def channel(guarded: RunningServer) -> Iterator[grpc.Channel]:
    """A connection to it."""
    with grpc.insecure_channel(guarded.target) as connected:
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
        ((), "this server asks for a token, and the request has none: send the metadata `authorization: Bearer TOKEN`"),
        (_bearer("b5e0c2f"), "the request's token is none that this server knows"),
        (_bearer(""), "the request's token is none that this server knows"),
        (_bearer(TOKENS[0], "Digest"), "the request's token is none that this server knows"),
        ((("authorization", TOKENS[0]),), "the request's token is none that this server knows"),
        (_bearer(TOKENS[0]) + _bearer("another"), "the request's token is none that this server knows"),
    ],
)
def test_without_a_token_that_it_knows_nothing_is_answered(
    call: Call, metadata: Metadata, message: str, channel: grpc.Channel
) -> None:
    """Unary or streaming, ours, reflection or a method that does not exist: UNAUTHENTICATED, and how to do it."""
    with pytest.raises(grpc.RpcError) as refused:
        call(channel, metadata)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert message in refused.value.details()


@pytest.mark.parametrize("metadata", [_bearer(TOKENS[0]), _bearer(TOKENS[1]), _bearer(TOKENS[1], "bearer")])
def test_any_of_the_tokens_opens_every_method(metadata: Metadata, channel: grpc.Channel) -> None:
    """With one of the file's lines, each call comes to its own answer."""
    assert [model.name for model in _list_models(channel, metadata).models] == ["colors"]
    assert "holds no image" in _predict_stream(channel, metadata).error.message
    assert _reflect(channel, metadata).list_services_response.service
    for call, status in ((_infer, grpc.StatusCode.INVALID_ARGUMENT), (_unknown, grpc.StatusCode.UNIMPLEMENTED)):
        with pytest.raises(grpc.RpcError) as refused:
            call(channel, metadata)
        assert refused.value.code() == status


def test_a_caller_that_never_sends_its_message_is_refused_too(channel: grpc.Channel) -> None:
    """The refusal does not wait for what the caller would send."""
    silent = channel.stream_unary("/unfreeze.v1.Classifier/Predict")
    never = iter(queue.Queue().get, b"")  # waits for what nobody puts
    with pytest.raises(grpc.RpcError) as refused:
        silent(never, timeout=20)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_health_is_open(channel: grpc.Channel) -> None:
    """Check and Watch answer those who have no token."""
    stub, request = HealthStub(channel), health_pb2.HealthCheckRequest(service="colors")
    serving = health_pb2.HealthCheckResponse.SERVING
    assert stub.Check(request, timeout=20).status == serving
    watch = stub.Watch(request, timeout=20)
    assert next(watch).status == serving
    watch.cancel()


@pytest.mark.parametrize("name", ["Load", "Unload"])
def test_without_admin_nobody_loads_or_unloads(name: str, channel: grpc.Channel) -> None:
    """With --no-admin a token is not enough, and the model stays."""
    method = getattr(GRPCInferenceServiceStub(channel), f"RepositoryModel{name}")
    request = getattr(open_inference_pb2, f"RepositoryModel{name}Request")(model_name="colors")
    with pytest.raises(grpc.RpcError) as refused:
        method(request, metadata=_bearer(TOKENS[0]), timeout=20)
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert "loads and unloads no models for its callers" in refused.value.details()
    (model,) = _list_models(channel, _bearer(TOKENS[0])).models
    assert model.state == "READY"


def test_the_log_holds_no_token(repository: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither those that the server knows nor those that callers send; that others can read its own is told."""
    path = tmp_path / "tokens"
    path.write_text(TOKENS[0])
    path.chmod(0o644)
    with (
        running_server(repository, "--token-file", str(path), "--insecure", "--instances", "1") as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        _list_models(channel, _bearer(TOKENS[0]))
        with pytest.raises(grpc.RpcError):
            _list_models(channel, _bearer("a-guess"))
    told = capfd.readouterr()
    assert "can read the tokens" in " ".join(told.err.split())
    assert not any(token in told.err + told.out for token in (TOKENS[0], "a-guess"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "tokens cannot be read: No such file"),
        ("", "tokens holds no token; put one on each line"),
        (" \n\n", "tokens holds no token; put one on each line"),
        ("fine\n\nsecret one\n", "tokens, line 3: a token is made of letters, digits and"),
        ("secr\N{LATIN SMALL LETTER E WITH ACUTE}t", "tokens, line 1: a token is made of letters, digits and"),
        ("# secret", "tokens, line 1: a token is made of letters, digits and"),
    ],
)
def test_a_file_that_holds_no_tokens_is_an_error(content: str | None, message: str, tmp_path: Path) -> None:
    """What is wrong is said by line, and what stands there is not shown."""
    path = tmp_path / "tokens"
    if content is not None:
        path.write_text(content)
    with pytest.raises(OptionsError, match=message) as refused:
        read_tokens(path)
    assert "secr" not in str(refused.value)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_file_that_everybody_can_read_is_a_warning(
    mode: int, *, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is read all the same."""
    path = tmp_path / "tokens"
    path.write_text("one\r\n two \n")
    path.chmod(mode)
    with caplog.at_level(logging.WARNING, logger="unfreeze.serve.security.auth"):
        assert read_tokens(path) == ("one", "two")
    assert bool(caplog.records) == warned
