"""Unix sockets: clients, permissions, and paths that are stale, in use, not sockets or too long."""

import asyncio
import fcntl
import os
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from support.certificates import Authority
from support.cli import run_cli
from support.http import call
from support.servers import running_server, serve_command, server_in_thread

from unfreeze.contract.errors import ForbiddenError, OptionsError, ServingError
from unfreeze.serve.client.asynchronous import AsyncClient
from unfreeze.serve.client.blocking import Client
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.security.unix_socket import UnixSocket
from unfreeze.serve.server import Server

pytestmark = pytest.mark.xdist_group("serve")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: a socket's path has at most 105 bytes."""
    with tempfile.TemporaryDirectory(prefix="uds") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def shared(repository: Path) -> Iterator[Server]:
    """A server on a Unix socket and on a port, whose path needs escapes in a URI."""
    with (
        tempfile.TemporaryDirectory(prefix="uds") as path,
        server_in_thread(repository, uds=Path(path) / "é 100%20.sock") as server,
    ):
        yield server


def _bound(path: Path, *, listening: bool) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    if listening:
        made.listen()
    return made


def test_both_clients_reach_a_server_on_its_socket(shared: Server, images: list[bytes]) -> None:
    """By the URI that the server prints, with the answers that it gives on its port."""
    target = shared.unix_socket.target
    with Client(target) as client, Client(f"127.0.0.1:{shared.port}") as by_port:
        expected = by_port.predict(images)
        assert client.predict(images) == expected
        assert [one.name for one in client.list_models()] == ["colors"]

    async def predict() -> object:
        async with AsyncClient(target) as client:
            return await client.predict(images)

    assert asyncio.run(predict()) == expected


def test_the_command_line_reaches_a_server_on_its_socket(shared: Server, images: list[bytes], tmp_path: Path) -> None:
    """`unfreeze predict --server unix:///PATH`."""
    file = tmp_path / "image"
    file.write_bytes(images[0])
    done = run_cli("predict", file, "--server", shared.unix_socket.target, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert '"label"' in done.stdout


def test_relative_paths_are_reached_too(
    repository: Path, images: list[bytes], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As unix:PATH, of a server that listens nowhere else."""
    monkeypatch.chdir(folder)
    with server_in_thread(repository, uds=Path("grpc.sock"), uds_only=True) as server:
        assert server.port == 0
        assert server.unix_socket.target == f"unix://{folder}/grpc.sock"
        with Client("unix:grpc.sock") as client:
            assert len(client.predict(images)) == len(images)


def test_the_socket_is_the_users_own_and_is_removed_at_the_end(repository: Path, folder: Path) -> None:
    """Mode 0600 unless `--uds-mode` says otherwise, whatever the umask is; the umask stays as it was."""
    path, umask = folder / "grpc.sock", os.umask(0o002)
    try:
        for mode, options in ((0o600, {}), (0o660, {"uds_mode": "660"})):
            with server_in_thread(repository, uds=path, **options):
                assert stat.S_IMODE(path.lstat().st_mode) == mode
                assert stat.S_ISSOCK(path.lstat().st_mode)
            assert list(folder.iterdir()) == []
    finally:
        assert os.umask(umask) == 0o002


def test_tokens_are_required_but_no_tls(repository: Path, images: list[bytes], folder: Path) -> None:
    """Nobody can listen in on a Unix socket; on a port tokens would need TLS."""
    tokens = folder / "tokens"
    tokens.write_text("secret\n")
    tokens.chmod(0o600)
    with server_in_thread(repository, uds=folder / "grpc.sock", uds_only=True, token_file=tokens) as server:
        target = server.unix_socket.target
        with Client(target, token="secret") as client:  # noqa: S106 - of this test
            assert len(client.predict(images)) == len(images)
        with Client(target) as client, pytest.raises(ForbiddenError, match="a token is required"):
            client.predict(images)


def test_the_socket_has_no_tls_if_the_port_has(repository: Path, images: list[bytes], folder: Path) -> None:
    """The permissions of the file protect it."""
    cert, key = Authority("trusted").issue("server").write(folder, "server")
    with server_in_thread(repository, uds=folder / "grpc.sock", tls_cert=cert, tls_key=key) as server:
        with Client(server.unix_socket.target) as client:
            assert len(client.predict(images)) == len(images)
        with Client(f"localhost:{server.port}", max_attempts=1) as client, pytest.raises(ServingError):
            client.predict(images)


def test_http_reports_that_there_is_no_port(repository: Path, folder: Path) -> None:
    """The page then shows no command for it."""
    with server_in_thread(repository, uds=folder / "grpc.sock", uds_only=True, http=0) as server:
        assert call(server, "/v1/models").json["grpc_port"] == 0


def test_a_killed_servers_socket_is_replaced(repository: Path, folder: Path) -> None:
    """The command prints both addresses, and a signal removes the socket."""
    path = folder / "grpc.sock"
    with running_server(repository, "--uds", str(path)) as killed:
        assert killed.process.stdout.readline() == f"also on unix://{path}\n"
        killed.process.kill()
        killed.process.wait()
    assert stat.S_ISSOCK(path.lstat().st_mode)
    command = [*serve_command(repository), "--uds", str(path), "--uds-only"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == f"serving {repository} on unix://{path}\n"
        with grpc.insecure_channel(f"unix://{path}") as channel:
            assert HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == 1
        process.terminate()
        assert process.wait(30) == 0
    assert not path.exists()


def test_a_live_servers_socket_is_refused(shared: Server, repository: Path, images: list[bytes]) -> None:
    """The second server does not start, and the first one goes on."""
    path = shared.unix_socket.path
    done = run_cli("serve", "--repository", repository, "--port", 0, "--no-metrics", "--uds", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"cannot listen on {path}: another server answers there" in " ".join(done.stderr.split())
    with Client(shared.unix_socket.target) as client:
        assert len(client.predict(images)) == len(images)


def test_what_is_no_socket_is_never_deleted(folder: Path) -> None:
    """A file, a folder, and a link to a socket, even if nobody listens there."""
    file, other, link = folder / "file", folder / "folder", folder / "link"
    file.write_text("kept")
    other.mkdir()
    _bound(folder / "socket", listening=False).close()
    link.symlink_to(folder / "socket")
    for path in (file, other, link):
        with pytest.raises(ServingError, match="it exists and is not a socket"), UnixSocket(path).binding():
            raise AssertionError
    assert (file.read_text(), other.is_dir(), link.is_symlink()) == ("kept", True, True)
    assert (folder / "socket").exists()


def test_sockets_that_cannot_be_checked_are_refused(folder: Path) -> None:
    """One of another kind, and one whose queue of connections is full."""
    datagrams, busy = folder / "datagrams", folder / "busy"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(datagrams))
        with pytest.raises(ServingError, match="remove it if no server uses it"), UnixSocket(datagrams).binding():
            raise AssertionError
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as waiting:
        full.bind(str(busy))
        full.listen(0)
        waiting.connect(str(busy))
        with pytest.raises(ServingError, match="another server answers there"), UnixSocket(busy).binding():
            raise AssertionError
    assert datagrams.exists()
    assert busy.exists()


def test_of_two_servers_that_start_at_once_one_is_refused(folder: Path) -> None:
    """The second waits until the first has created its socket, instead of removing it."""
    path, entered, made = folder / "grpc.sock", threading.Event(), []

    def first() -> None:
        with UnixSocket(path).binding():
            entered.set()
            time.sleep(0.3)
            made.append(_bound(path, listening=True))

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait()
    with pytest.raises(ServingError, match="another server answers there"), UnixSocket(path).binding():
        raise AssertionError
    thread.join()
    made[0].close()


def test_another_programs_lock_does_not_prevent_the_start(folder: Path) -> None:
    """Any user may lock a folder such as /tmp for ever."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with UnixSocket(folder / "grpc.sock").binding():
            made = _bound(folder / "grpc.sock", listening=True)
        made.close()
    finally:
        os.close(descriptor)


def test_another_servers_socket_is_not_removed(folder: Path) -> None:
    """A server that ends removes the file that it created, and nothing else."""
    path, own = folder / "grpc.sock", UnixSocket(folder / "grpc.sock")
    with own.binding():
        first = _bound(path, listening=True)
    path.rename(folder / "moved")
    other = _bound(path, listening=True)
    own.remove()
    assert path.exists()
    first.close()
    other.close()


def test_a_missing_folder_is_an_error(repository: Path, folder: Path) -> None:
    """The message says which one."""
    with pytest.raises(ServingError, match=f"cannot listen in {folder}/missing: No such file or directory"):
        server_in_thread(repository, uds=folder / "missing" / "grpc.sock").__enter__()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"uds": Path("/tmp") / ("x" * 103)}, r"has 108 bytes, and the path of a gRPC server's socket at most 105"),  # noqa: S108
        ({"uds": Path("unix:///run/grpc.sock")}, "--uds must be a path, such as"),
        ({"uds": Path("a\0b")}, "--uds must be a path, such as"),
        ({"uds": Path("a"), "uds_mode": "0o600"}, "--uds-mode must be three octal digits, such as 660, got '0o600'"),
        ({"uds": Path("a"), "uds_mode": "860"}, "--uds-mode must be three octal digits"),
        ({"uds_only": True}, "--uds-only also needs --uds"),
        ({"host": "unix:///run/grpc.sock"}, "--uds listens on a Unix socket"),
        ({"uds": Path("a"), "token_file": Path("b")}, "--uds-only if all clients use the Unix socket"),
        ({"uds": Path("a"), "uds_only": True, "http": 0, "token_file": Path("b")}, "sends tokens in plain text"),
        ({"uds": Path("a"), "uds_only": True, "http": 0, "host": "0.0.0.0"}, "--host 0.0.0.0 is reachable"),  # noqa: S104
        ({"uds": Path("a"), "uds_only": True, "metrics_host": "0.0.0.0"}, "--metrics-host 0.0.0.0 is"),  # noqa: S104
    ],
)
def test_options_that_cannot_be_are_errors(options: dict[str, object], message: str) -> None:
    """Before a model is loaded."""
    with pytest.raises(OptionsError, match=message):
        ServeOptions(repository=Path("models"), **options)


def test_the_longest_path_is_105_bytes(repository: Path, images: list[bytes], folder: Path) -> None:
    """It works; bytes count, not letters."""
    path = folder / ("x" * (105 - len(str(folder)) - 1))
    with server_in_thread(repository, uds=path, uds_only=True) as server, Client(server.unix_socket.target) as client:
        assert len(client.predict(images)) == len(images)
    with pytest.raises(OptionsError, match="has 106 bytes"):
        ServeOptions(repository=repository, uds=path.with_name(path.name[:-1] + "é"))


def test_without_a_port_the_host_may_be_any() -> None:
    """It is not used."""
    options = ServeOptions(repository=Path("models"), uds=Path("a"), uds_only=True, host="0.0.0.0")  # noqa: S104
    assert options.unix_socket.path == Path.cwd() / "a"
