"""A model's folder behind a web server that serves files, with Python's own client. It cannot be listed."""

import re
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from unfreeze.contract.errors import SourceError
from unfreeze.device.sources.source import Transfer

TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 16
_WAITS_S = (0.5, 1.0)  # before the second and the third attempt
_MISSING, _FIRST_SERVER_ERROR, _PARTIAL, _BEYOND_END = (404, 410), 500, 206, 416
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "unfreeze-pull"}


class WebSource:
    """A source at an `http://` or `https://` URL.

    Args:
        url: of the model's folder; a query, such as a signature of access, is sent with each file, and so are a user
            and a password, but not where the server redirects to.

    Raises:
        SourceError: the URL is not valid.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").encode("idna").decode()
            port = "" if parts.port is None else f":{parts.port}"
        except ValueError as error:
            raise SourceError(f"the source is not a valid URL: {error}") from error
        if not host:
            raise SourceError("the source is not a valid URL: it has no host")
        netloc = f"[{host}]{port}" if ":" in host else f"{host}{port}"
        self._parts = parts._replace(netloc=netloc, query=_quoted(parts.query), path=_quoted(parts.path))
        self._access: dict[str, str] = {}
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._access = {"Authorization": f"Basic {b64encode(user.encode()).decode()}"}

    def read(self, path: str, most_bytes: int) -> bytes | None:
        """Read a small file; see `Source`."""
        url = self._url(path)
        response = _request(url, {}, self._access)
        if response is None:
            return None
        try:
            with response:
                content = response.read(most_bytes + 1)
        except (OSError, HTTPException) as error:
            raise SourceError(f"cannot read {_shown(url)}: {error}") from error
        if len(content) > most_bytes:
            raise SourceError(f"{_shown(url)} has more than {most_bytes:,} bytes")
        expected = response.headers.get("Content-Length")
        if expected and expected.isdecimal() and len(content) < int(expected):
            raise SourceError(f"{_shown(url)} ended after {len(content):,} of {expected} bytes")
        return content

    def versions(self) -> None:
        """A web server's folders cannot be listed."""

    @contextmanager
    def open(self, path: str, start: int, state: str) -> Iterator[Transfer]:
        """Begin to receive a file, from the middle if it is still the same; see `Source`.

        RFC 9110, 13.1.5: with If-Range, a server that has another file sends the whole of it.
        """
        url = self._url(path)
        wanted = {"Range": f"bytes={start}-", "If-Range": state} if start and state else {}
        response = _request(url, wanted, self._access) or (_request(url, {}, self._access) if wanted else None)
        if response is None:
            raise SourceError(f"there is no file {_shown(url)}")
        with response:
            begin, total = _position(response)
            yield Transfer(start=begin, total=total, state=_state(response), chunks=_chunks(response, _shown(url)))

    def _url(self, path: str) -> str:
        return urlunsplit(self._parts._replace(path=f"{self._parts.path.rstrip('/')}/{path}", fragment=""))


def _quoted(text: str) -> str:
    """Escape what a request must not contain, and nothing that is escaped already."""
    return quote(text, safe="%/:?#[]@!$&'()*+,;=~")


def _request(url: str, headers: dict[str, str], access: dict[str, str]) -> HTTPResponse | None:
    """Send a request, again after an error that may pass; None if there is no such file, or no such part of it."""
    request = Request(url, headers=_HEADERS | headers)  # noqa: S310 - http
    for name, value in access.items():
        request.add_unredirected_header(name, value)
    for wait in (*_WAITS_S, None):
        try:
            response: HTTPResponse = urlopen(request, timeout=TIMEOUT_S)  # noqa: S310 - http
        except HTTPError as error:
            error.close()
            if error.code in _MISSING or (headers and error.code == _BEYOND_END):
                return None
            if wait is None or error.code < _FIRST_SERVER_ERROR:
                raise SourceError(f"{_shown(url)} answers with {error.code} {error.reason}") from error
        except (OSError, HTTPException) as error:
            if wait is None:
                reason = error.reason if isinstance(error, URLError) else error
                raise SourceError(f"cannot reach {_shown(url)}: {reason}") from error
        else:
            return response
        time.sleep(wait)
    raise AssertionError(url)


def _position(response: HTTPResponse) -> tuple[int, int | None]:
    """Return where the content begins, and the size of the whole file."""
    if response.status == _PARTIAL:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if found is None:
            raise SourceError(f"the server's Content-Range is {response.headers.get('Content-Range')!r}")
        return int(found[1]), int(found[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _state(response: HTTPResponse) -> str:
    """Return what may be sent as If-Range: a strong entity tag, or else the date of the last change."""
    tag: str = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _chunks(response: HTTPResponse, name: str) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(_CHUNK_BYTES)  # what is there: on a slow network, less is lost by an interruption
        except (OSError, HTTPException) as error:
            raise SourceError(f"the transfer of {name} was interrupted: {error}") from error
        if not chunk:
            return
        yield chunk


def _shown(url: str) -> str:
    """Leave out the query, which may be secret."""
    return urlunsplit(urlsplit(url)._replace(query=""))
