"""HTTP requests by Python's own client, which sends what it is told."""

import http.client
import json
import ssl
from dataclasses import dataclass
from typing import Any

from unfreeze.serve.server import Server


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def encode_form(files: list[tuple[str, bytes]], fields: dict[str, str] | None = None) -> tuple[bytes, str]:
    """Return the body and the content type of a form with files and text."""
    parts = [
        f'--limit\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode() + content
        for name, content in files
    ]
    parts += [
        f'--limit\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}'.encode()
        for name, text in (fields or {}).items()
    ]
    return b"\r\n".join([*parts, b"--limit--\r\n"]), "multipart/form-data; boundary=limit"


def call(
    server: Server,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    *,
    method: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Send a request on a connection of its own: POST if there is a body.

    Args:
        server: that serves HTTP.
        path: with the query.
        body: of the request.
        headers: further headers; "Host" may be among them.
        method: if it is another one.
        tls: of the client.
    """
    assert server.http is not None
    where = "127.0.0.1", server.http.port
    connection = http.client.HTTPSConnection(*where, context=tls) if tls else http.client.HTTPConnection(*where)
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(status=response.status, headers=found, body=response.read())
    finally:
        connection.close()
