"""Who may send HTTP requests: tokens, origins, names of the machine, TLS."""

import ssl
from pathlib import Path

import pytest
from support.certificates import Authority
from support.http import call
from support.servers import server_in_thread

from unfreeze.contract.errors import OptionsError, ServingError
from unfreeze.serve.server import Server

pytestmark = pytest.mark.xdist_group("serve")

PATH = "/v1/models/colors:classify"


def test_pages_of_other_origins_are_refused(http: Server, images: list[bytes]) -> None:
    """A browser sends their requests too, for example to unload a model."""
    assert http.http is not None
    own = f"127.0.0.1:{http.http.port}"
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "https://"):
        answer = call(http, PATH, images[0], {"Origin": origin})
        assert answer.status == 403
        assert "another origin" in answer.json["error"]
    assert call(http, PATH, images[0], {"Origin": f"http://{own}"}).status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.1", "[", ""])
def test_foreign_names_of_this_machine_are_refused(http: Server, host: str) -> None:
    """A page can make a browser look up its own name as 127.0.0.1 (DNS rebinding)."""
    answer = call(http, "/v1/models", headers={"Host": host})
    assert answer.status in (400, 403)
    assert call(http, "/v1/models", headers={"Host": "localhost:80"}).status == 200
    assert call(http, "/v1/models", headers={"Host": "[::1]"}).status == 200


def test_behind_a_proxy_any_name_is_answered(repository: Path) -> None:
    """With --insecure, which says that there is one."""
    with server_in_thread(repository, http=0, insecure=True) as server:
        assert call(server, "/v1/models", headers={"Host": "models.example"}).status == 200


def test_tokens_are_required_as_over_grpc(repository: Path, images: list[bytes], tmp_path: Path) -> None:
    """For everything but health and the page, before the body is read."""
    tokens = tmp_path / "tokens"
    tokens.write_text("first\nsecond\n")
    tokens.chmod(0o600)
    with server_in_thread(repository, http=0, token_file=tokens, insecure=True) as server:
        for path in ("/", "/page.js", "/page.css", "/v2/health/live", "/v2/health/ready"):
            assert call(server, path).status == 200
        for headers in ({}, {"Authorization": "Bearer third"}, {"Authorization": "Basic first"}):
            answer = call(server, PATH, images[0], headers)
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "third" not in answer.json["error"]
            assert call(server, "/v1/models", headers=headers).status == 401
        assert call(server, PATH, images[0], {"Authorization": "bearer second"}).status == 200


def test_tls_is_that_of_grpc(repository: Path, images: list[bytes], tmp_path: Path) -> None:
    """With client certificates, and a renewed certificate for the next connection."""
    authority, other = Authority("ca"), Authority("other")
    cert, key = authority.issue("localhost").write(tmp_path, "server")
    client = authority.issue("client").write(tmp_path, "client")
    (tmp_path / "ca.pem").write_bytes(authority.cert)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    options = {"tls_cert": cert, "tls_key": key, "tls_client_ca": tmp_path / "ca.pem"}
    with server_in_thread(repository, http=0, **options) as server:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            call(server, PATH, images[0], tls=trusting)
        trusting.load_cert_chain(*client)
        assert call(server, PATH, images[0], tls=trusting).status == 200
        other.issue("localhost").write(tmp_path, "server")
        with pytest.raises(ssl.SSLCertVerificationError):
            call(server, PATH, images[0], tls=trusting)


def test_request_ids_are_returned(http: Server) -> None:
    """The caller's, cleaned; else a random one."""
    assert call(http, "/v2/health/live", headers={"X-Request-Id": "a b\u00e9"}).headers["x-request-id"] == "a_b_"
    assert len(call(http, "/v2/health/live").headers["x-request-id"]) == 16


def test_a_used_port_is_an_error_and_leaves_nothing_open(http: Server, repository: Path) -> None:
    """Neither gRPC nor HTTP."""
    assert http.http is not None
    expected = pytest.raises(ServingError, match=f"cannot listen for HTTP on 127.0.0.1:{http.http.port}")
    with expected, server_in_thread(repository, http=http.http.port):
        pass


def test_missing_packages_are_named(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With how to install them."""
    monkeypatch.setattr("unfreeze.serve.server.find_spec", lambda name: None if name == "uvicorn" else name)
    expected = pytest.raises(OptionsError, match=r"--http needs uvicorn: pip install 'unfreeze\[http\]'")
    with expected, server_in_thread(repository, http=0):
        pass
