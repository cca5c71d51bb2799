"""TLS: who is let in, certificates that are renewed, and addresses that are not listened on without it."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from support.certificates import Authority, Pair
from support.servers import running_server, serve_command

from unfreeze.command import app
from unfreeze.contract.errors import OptionsError
from unfreeze.contract.model.kserve import kserve_yaml
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.security.binding import is_this_machine_alone
from unfreeze.serve.security.tls import TlsFiles, tls_credentials

QUICK = ("--instances", "1")  # nothing is measured at the start
OURS, OTHERS = Authority("ours"), Authority("others")


@contextmanager
def _connected(target: str, root: bytes, client: Pair | None = None) -> Iterator[grpc.Channel]:
    """Open a connection of its own, which trusts one authority."""
    pair = {} if client is None else {"private_key": client.key, "certificate_chain": client.cert}
    credentials = grpc.ssl_channel_credentials(root, **pair)
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(target, credentials, options=options) as channel:
        yield channel


def _models(channel: grpc.Channel) -> list[str]:
    return [model.name for model in ClassifierStub(channel).ListModels(pb.ListModelsRequest(), timeout=20).models]


def _refused(channel: grpc.Channel) -> str:
    """See that a call is UNAVAILABLE; gives the words."""
    with pytest.raises(grpc.RpcError) as refused:
        _models(channel)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE, refused.value.details()
    return refused.value.details()


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    """The files of a certificate of ours."""
    return OURS.issue("server").write(tmp_path, "server")


def test_a_renewed_certificate_is_shown_to_new_connections_while_old_ones_go_on(
    repository: Path, paths: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """Plain and wrong callers are refused; a broken pair changes nothing and is told once; a whole one is taken."""
    with running_server(repository, "--tls-cert", str(paths[0]), "--tls-key", str(paths[1]), *QUICK) as server:
        target = server.target
        with grpc.insecure_channel(target) as plain, _connected(target, OTHERS.cert) as wrong:
            _refused(plain)
            assert "CERTIFICATE_VERIFY_FAILED" in _refused(wrong)
        with _connected(target, OURS.cert) as old:
            watch = HealthStub(old).Watch(health_pb2.HealthCheckRequest(service=""))
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            _renew(target, paths)
            assert _models(old) == ["colors"]  # it trusts the old certificate alone: it was not connected anew
            assert server.terminate() == 0
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    told = " ".join(capfd.readouterr().err.split())
    assert told.count("the new certificate cannot be used, and the one before it stays") == 1
    assert told.count("a new certificate was read from") == 1


def _renew(target: str, paths: tuple[Path, Path]) -> None:
    """Write a key that does not belong to the certificate, then a whole pair of another authority."""
    renewed = OTHERS.issue("server")
    paths[1].write_bytes(renewed.key)
    for _ in range(3):
        with _connected(target, OURS.cert) as new:
            assert _models(new) == ["colors"]
    paths[0].write_bytes(renewed.cert)
    with _connected(target, OTHERS.cert) as new, _connected(target, OURS.cert) as late:
        assert _models(new) == ["colors"]
        assert "CERTIFICATE_VERIFY_FAILED" in _refused(late)


def test_clients_must_present_a_certificate_of_their_authority(
    repository: Path, paths: tuple[Path, Path], tmp_path: Path
) -> None:
    """With --tls-client-ca, no certificate and another authority's are refused; exchanging the authority turns that."""
    authority = tmp_path / "clients.pem"
    authority.write_bytes(OURS.cert)
    tls = ("--tls-cert", str(paths[0]), "--tls-key", str(paths[1]), "--tls-client-ca", str(authority))
    ours, others = OURS.issue("a client"), OTHERS.issue("a client")
    with running_server(repository, *tls, *QUICK) as server:
        with _connected(server.target, OURS.cert) as nobody, _connected(server.target, OURS.cert, others) as stranger:
            _refused(nobody)
            _refused(stranger)
        with _connected(server.target, OURS.cert, ours) as known:
            assert _models(known) == ["colors"]
            authority.write_bytes(OTHERS.cert)
            with (
                _connected(server.target, OURS.cert, others) as new,
                _connected(server.target, OURS.cert, ours) as late,
            ):
                assert _models(new) == ["colors"]
                _refused(late)
            assert _models(known) == ["colors"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"cert": None}, r"--tls-cert .*cert cannot be read: No such file"),
        ({"key": None}, r"--tls-key .*key cannot be read: No such file"),
        ({"client_ca": None}, r"--tls-client-ca .*client_ca cannot be read: No such file"),
        ({"cert": b""}, r"--tls-cert .* and --tls-key .* are no certificate and its key"),
        ({"key": OTHERS.issue("x").key}, r"are no certificate and its key.*in PEM: .*MISMATCH"),
        ({"key": OURS.issue("x", b"a passphrase").key}, r"are no certificate and its key, without a passphrase"),
        ({"client_ca": b"hello \xff"}, r"--tls-client-ca .* holds no certificates, in PEM"),
        ({"client_ca": b""}, r"--tls-client-ca .* holds no certificates, in PEM"),
    ],
)
def test_files_that_are_not_what_they_should_be_are_named(
    content: dict[str, bytes | None], message: str, tmp_path: Path
) -> None:
    """Each way to give the wrong files is an error that says which, before anything is listened on."""
    pair = OURS.issue("server")
    files = {"cert": pair.cert, "key": pair.key, "client_ca": OURS.cert} | content
    for name, data in files.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
    with pytest.raises(OptionsError, match=message):
        tls_credentials(TlsFiles(**{name: tmp_path / name for name in files}))


FILE = Path("x.pem")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "0.0.0.0"}, "other machines can reach --host 0.0.0.0, and without TLS read along"),  # noqa: S104
        ({"host": "::"}, "other machines can reach --host ::"),
        ({"host": "[::]"}, "other machines can reach --host"),
        ({"host": "0"}, "other machines can reach --host 0"),
        ({"host": "192.0.2.1"}, "other machines can reach --host 192.0.2.1"),
        ({"host": "::ffff:192.0.2.1"}, "other machines can reach --host"),
        ({"host": "nobody.invalid"}, "other machines can reach --host nobody.invalid"),
        ({"host": 64 * "a"}, "other machines can reach --host aaa"),
        ({"metrics_host": "0.0.0.0"}, "other machines can reach --metrics-host 0.0.0.0"),  # noqa: S104
        ({"token_file": FILE}, "--token-file without TLS sends tokens in the clear"),
        ({"tls_cert": FILE}, "go together, a certificate and its key; give --tls-key too"),
        ({"tls_key": FILE}, "go together, a certificate and its key; give --tls-cert too"),
        ({"tls_key": FILE, "insecure": True}, "give --tls-cert too"),
        ({"tls_client_ca": FILE}, "--tls-client-ca asks clients for certificates: give --tls-cert"),
    ],
)
def test_what_would_be_open_to_others_must_be_said(options: dict[str, object], message: str, tmp_path: Path) -> None:
    """Addresses that others reach, and tokens, need TLS or --insecure; half of what TLS needs is refused."""
    with pytest.raises(OptionsError, match=re.escape(message)):
        ServeOptions(repository=tmp_path, **options)
    if options.keys() & {"host", "metrics_host", "token_file"}:
        assert ServeOptions(repository=tmp_path, **options, insecure=True).insecure
        assert ServeOptions(repository=tmp_path, **options, tls_cert=FILE, tls_key=FILE).tls_cert == FILE


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_this_machine_alone_needs_no_tls(host: str, tmp_path: Path) -> None:
    """Loopback addresses are listened on as they are."""
    assert is_this_machine_alone(host)
    assert not ServeOptions(repository=tmp_path, host=host).insecure


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "other machines can reach --host 0.0.0.0"),  # noqa: S104
        (["--tls-cert", "gone.pem", "--tls-key", "gone.key"], "--tls-cert gone.pem cannot be read"),
    ],
)
def test_a_server_that_is_not_safe_does_not_start(arguments: list[str], message: str, tmp_path: Path) -> None:
    """The exit code is 2 and the reason is said, before the repository, which is empty here, is looked at."""
    command = [*serve_command(tmp_path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert done.stdout == ""


def test_the_example_for_kserve_starts() -> None:
    """Its arguments are taken as they stand, though they listen on every address."""
    (line,) = re.findall(r"^ *args: \[(.*)\]$", kserve_yaml("insects"), re.MULTILINE)
    arguments = [argument.strip('"') for argument in line.split(", ")]
    _, bound, _ = app.parse_args(["serve", *arguments])
    options = bound.args[0]
    assert (options.host, options.port, options.insecure) == ("0.0.0.0", 8081, True)  # noqa: S104
