"""TLS: client certificates, reloading of certificates, and addresses that require TLS."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from support.certificates import Authority, Pair
from support.cli import run_cli
from support.servers import server_thread

from unfreeze.command import app
from unfreeze.contract.errors import OptionsError
from unfreeze.contract.model.kserve import kserve_yaml
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.security.binding import is_loopback
from unfreeze.serve.security.tls import TlsFiles, tls_credentials

pytestmark = pytest.mark.xdist_group("serve")

TRUSTED, OTHER = Authority("trusted"), Authority("other")


@contextmanager
def _connected(target: str, root: bytes, client: Pair | None = None) -> Iterator[grpc.Channel]:
    """Open a new connection that trusts one authority."""
    pair = {} if client is None else {"private_key": client.key, "certificate_chain": client.cert}
    credentials = grpc.ssl_channel_credentials(root, **pair)
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(target, credentials, options=options) as channel:
        yield channel


def _models(channel: grpc.Channel) -> list[str]:
    return [model.name for model in ClassifierStub(channel).ListModels(pb.ListModelsRequest(), timeout=20).models]


def _connection_error(channel: grpc.Channel) -> str:
    """Check that a call fails with UNAVAILABLE; returns its message."""
    with pytest.raises(grpc.RpcError) as failed:
        _models(channel)
    assert failed.value.code() == grpc.StatusCode.UNAVAILABLE, failed.value.details()
    return failed.value.details()


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    """The files of a certificate of the trusted authority."""
    return TRUSTED.issue("server").write(tmp_path, "server")


def test_reloads_a_changed_certificate_and_keeps_connections(
    repository: Path, paths: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """An invalid pair is logged once and ignored; a valid one is used for new connections; old ones stay open."""
    caplog.set_level(logging.INFO, logger="unfreeze")
    with server_thread(repository, tls_cert=paths[0], tls_key=paths[1]) as target:
        with grpc.insecure_channel(target) as plain, _connected(target, OTHER.cert) as wrong:
            _connection_error(plain)
            assert "CERTIFICATE_VERIFY_FAILED" in _connection_error(wrong)
        with _connected(target, TRUSTED.cert) as old:
            watch = HealthStub(old).Watch(health_pb2.HealthCheckRequest(service=""))
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            _renew(target, paths)
            assert _models(old) == ["colors"]  # it trusts only the old certificate, so this is the same connection
            watch.cancel()
    assert caplog.text.count("cannot load the changed TLS certificate, keeping the previous one") == 1
    assert caplog.text.count("loaded the changed TLS certificate") == 1


def _renew(target: str, paths: tuple[Path, Path]) -> None:
    """Write a key that does not match the certificate, then the matching certificate of another authority."""
    renewed = OTHER.issue("server")
    paths[1].write_bytes(renewed.key)
    for _ in range(3):
        with _connected(target, TRUSTED.cert) as new:
            assert _models(new) == ["colors"]
    paths[0].write_bytes(renewed.cert)
    with _connected(target, OTHER.cert) as new, _connected(target, TRUSTED.cert) as late:
        assert _models(new) == ["colors"]
        assert "CERTIFICATE_VERIFY_FAILED" in _connection_error(late)


def test_mutual_tls_requires_a_certificate_of_the_client_authority(
    repository: Path, paths: tuple[Path, Path], tmp_path: Path
) -> None:
    """Clients without a certificate, or with one of another authority, fail; the authority file is reloaded too."""
    authority = tmp_path / "clients.pem"
    authority.write_bytes(TRUSTED.cert)
    trusted, other = TRUSTED.issue("a client"), OTHER.issue("a client")
    with server_thread(repository, tls_cert=paths[0], tls_key=paths[1], tls_client_ca=authority) as target:
        with _connected(target, TRUSTED.cert) as without, _connected(target, TRUSTED.cert, other) as wrong:
            _connection_error(without)
            _connection_error(wrong)
        with _connected(target, TRUSTED.cert, trusted) as known:
            assert _models(known) == ["colors"]
            authority.write_bytes(OTHER.cert)
            with (
                _connected(target, TRUSTED.cert, other) as new,
                _connected(target, TRUSTED.cert, trusted) as late,
            ):
                assert _models(new) == ["colors"]
                _connection_error(late)
            assert _models(known) == ["colors"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"cert": None}, r"cannot read --tls-cert .*cert: No such file"),
        ({"key": None}, r"cannot read --tls-key .*key: No such file"),
        ({"client_ca": None}, r"cannot read --tls-client-ca .*client_ca: No such file"),
        ({"cert": b""}, r"--tls-cert .* and --tls-key .* must be a certificate and its private key"),
        ({"key": OTHER.issue("x").key}, r"must be a certificate and its private key.*: .*MISMATCH"),
        ({"key": TRUSTED.issue("x", b"a passphrase").key}, r"private key in PEM format, without a passphrase"),
        ({"client_ca": b"hello \xff"}, r"--tls-client-ca .* must contain certificates in PEM format"),
        ({"client_ca": b""}, r"--tls-client-ca .* must contain certificates in PEM format"),
    ],
)
def test_rejects_invalid_certificate_files(content: dict[str, bytes | None], message: str, tmp_path: Path) -> None:
    """Each missing or invalid file is an error that names it, before the server listens."""
    pair = TRUSTED.issue("server")
    files = {"cert": pair.cert, "key": pair.key, "client_ca": TRUSTED.cert} | content
    for name, data in files.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
    with pytest.raises(OptionsError, match=message):
        tls_credentials(TlsFiles(**{name: tmp_path / name for name in files}))


FILE = Path("x.pem")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "0.0.0.0"}, "--host 0.0.0.0 is reachable from other machines and TLS is not configured"),  # noqa: S104
        ({"host": "::"}, "--host :: is reachable from other machines"),
        ({"host": "[::]"}, "--host [::] is reachable from other machines"),
        ({"host": "0"}, "--host 0 is reachable from other machines"),
        ({"host": "192.0.2.1"}, "--host 192.0.2.1 is reachable from other machines"),
        ({"host": "::ffff:192.0.2.1"}, "--host ::ffff:192.0.2.1 is reachable from other machines"),
        ({"host": "nobody.invalid"}, "--host nobody.invalid is reachable from other machines"),
        ({"host": 64 * "a"}, f"--host {64 * 'a'} is reachable from other machines"),
        ({"metrics_host": "0.0.0.0"}, "--metrics-host 0.0.0.0 is reachable from other machines"),  # noqa: S104
        ({"token_file": FILE}, "--token-file without TLS sends tokens in plain text"),
        ({"tls_cert": FILE}, "--tls-cert also needs --tls-key"),
        ({"tls_key": FILE}, "--tls-key also needs --tls-cert"),
        ({"tls_key": FILE, "insecure": True}, "--tls-key also needs --tls-cert"),
        ({"tls_client_ca": FILE}, "--tls-client-ca also needs --tls-cert"),
    ],
)
def test_reachable_addresses_and_tokens_require_tls_or_insecure(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    """Addresses reachable from other machines, and tokens, require TLS or --insecure; TLS options must be complete."""
    with pytest.raises(OptionsError, match=re.escape(message)):
        ServeOptions(repository=tmp_path, **options)
    if options.keys() & {"host", "metrics_host", "token_file"}:
        assert ServeOptions(repository=tmp_path, **options, insecure=True).insecure
        assert ServeOptions(repository=tmp_path, **options, tls_cert=FILE, tls_key=FILE).tls_cert == FILE


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_loopback_addresses_need_no_tls(host: str, tmp_path: Path) -> None:
    """Loopback addresses are accepted without TLS and without --insecure."""
    assert is_loopback(host)
    assert not ServeOptions(repository=tmp_path, host=host).insecure


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 is reachable from other machines"),  # noqa: S104
        (["--tls-cert", "gone.pem", "--tls-key", "gone.key"], "cannot read --tls-cert gone.pem"),
    ],
)
def test_insecure_server_does_not_start(arguments: list[str], message: str, tmp_path: Path) -> None:
    """The command exits with code 2 and the reason, before it reads the repository, which is empty here."""
    done = run_cli("serve", "--repository", tmp_path, "--port", 0, *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert done.stdout == ""


def test_kserve_example_has_valid_arguments() -> None:
    """The arguments in the KServe example are accepted, although they listen on all addresses."""
    (line,) = re.findall(r"^ *args: \[(.*)\]$", kserve_yaml("insects"), re.MULTILINE)
    arguments = [argument.strip('"') for argument in line.split(", ")]
    _, bound, _ = app.parse_args(["serve", *arguments])
    options = bound.args[0]
    assert (options.host, options.port, options.insecure) == ("0.0.0.0", 8081, True)  # noqa: S104
