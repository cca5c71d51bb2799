"""Local paths and URLs."""

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from unfreeze.batch import storage
from unfreeze.batch.storage import arrow_urls
from unfreeze.contract.errors import UnfreezeError


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files; fails `failures` times before."""

    failures = 0

    def do_GET(self) -> None:
        if type(self).failures:
            type(self).failures -= 1
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """An HTTP server of the temporary folder, which does not know ranges."""
    (tmp_path / "a b#1.jpg").write_bytes(b"image")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_images_are_read_over_http(url: str) -> None:
    """With escaped names; what is not there is an error of its own kind."""
    assert storage.read_bytes(f"{url}/a%20b%231.jpg") == b"image"
    found = storage.look_up(f"{url}/a%20b%231.jpg")
    assert found is not None
    assert (found.is_folder, found.size) == (False, 5)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{url}/nothing.jpg")
    with storage.open_stream(f"{url}/a%20b%231.jpg") as stream:
        assert stream.read() == b"image"


def test_an_error_that_passes_is_tried_again(url: str) -> None:
    """Three failures are overcome, four are an error that states the reason."""
    _Handler.failures = 3
    assert storage.read_bytes(f"{url}/a%20b%231.jpg") == b"image"
    _Handler.failures = 4
    with pytest.raises(OSError, match=r"a%20b%231\.jpg cannot be read: 503"):
        storage.read_bytes(f"{url}/a%20b%231.jpg")


def test_pyarrows_file_systems_take_any_name(tmp_path: Path) -> None:
    """Spaces, number signs and question marks belong to the name; options of the file system do not."""
    (tmp_path / "a b#1?c=2.jpg").write_bytes(b"image")
    assert storage.read_bytes(f"file://{tmp_path}/a b#1?c=2.jpg") == b"image"
    assert [one.path for one in storage.list_url(f"file://{tmp_path}")] == [f"file://{tmp_path}/a b#1?c=2.jpg"]
    assert storage.look_up(f"file://{tmp_path}/nothing") is None
    system, path = arrow_urls.resolve("s3://anonymous@bucket/a b?c/d.jpg?region=eu-west-1&scheme=http")
    assert (system.region, path) == ("eu-west-1", "bucket/a b?c/d.jpg")


def test_paths_of_a_list_are_found_beside_it() -> None:
    """Absolute paths and URLs stay as they are."""
    assert storage.beside("x.jpg", "s3://bucket/lists/list.csv") == "s3://bucket/lists/x.jpg"
    assert storage.beside("../x.jpg", "lists/list.csv") == "x.jpg"
    assert storage.beside("/x.jpg", "lists/list.csv") == "/x.jpg"
    assert storage.beside("https://a/x.jpg", "lists/list.csv") == "https://a/x.jpg"
    assert storage.located("a/b.jpg", "/base") == "/base/a/b.jpg"
    assert storage.located("s3://a/b.jpg", "/base") == "s3://a/b.jpg"


def test_a_missing_driver_is_named() -> None:
    """The error says which package the protocol needs."""
    with pytest.raises(UnfreezeError, match=r'sftp://a/b needs a package that is not installed: .*"paramiko"'):
        storage.read_bytes("sftp://a/b")
