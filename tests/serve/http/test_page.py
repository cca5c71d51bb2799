"""The page to try the models, in a real browser."""

import csv
import io
import subprocess
from pathlib import Path

import pytest
from support.browser import accessibility_faults, needs_axe, needs_chromium, opened
from support.http import call
from support.images import COLORS, draw_image, encode
from support.servers import server_in_thread

from unfreeze.serve.server import Server

pytestmark = pytest.mark.xdist_group("serve")

DROP = """
(files) => {
  const transfer = new DataTransfer();
  for (const { name, content } of files) {
    transfer.items.add(new File([Uint8Array.from(atob(content), (one) => one.charCodeAt(0))], name));
  }
  dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, cancelable: true }));
}
"""


def _address(server: Server) -> str:
    assert server.http is not None
    return server.http.address


def test_the_page_loads_nothing_from_elsewhere(http: Server) -> None:
    """Its policy allows its own files alone, and no cookie is set."""
    for path in ("/", "/page.js", "/page.css"):
        answer = call(http, path)
        assert answer.status == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert "set-cookie" not in answer.headers
        assert b"https://" not in answer.body


@needs_chromium
def test_dropped_files_get_labels_or_a_refusal(http: Server, tmp_path: Path) -> None:
    """Three files, one of them no image; the table is downloaded, the command for curl works."""
    from base64 import b64encode

    files = [(f"{name}.jpg", encode(draw_image(color, 5))) for name, color in list(COLORS.items())[:2]]
    files.append(("=cmd,|'notes'.txt", b"no image at all"))
    expected = [call(http, "/v1/models/colors:classify", content).json for _, content in files[:2]]
    with opened(_address(http)) as (page, errors, requested):
        page.wait_for_selector("#about:has-text('3 classes; images of 32 x 32 pixels; fp32')")
        page.evaluate(DROP, [{"name": name, "content": b64encode(content).decode()} for name, content in files])
        page.wait_for_function("() => document.querySelectorAll('#results > li').length === 3")
        page.wait_for_selector("text=2 classified, 1 refused")
        for (name, _), document in zip(files[:2], expected, strict=True):
            card = page.locator("#results > li", has_text=name)
            best = document["predictions"][0]["labels"][0]
            assert card.locator("ol li span").first.inner_text() == best["label"]
            assert card.locator("ol li data").first.inner_text() == f"{100 * best['score']:.1f} %"
            assert "colors, version 1, answered in" in card.inner_text()
        refused = page.locator("#results > li", has_text="notes")
        assert "not an image in a supported format" in refused.locator(".refused").inner_text()
        with page.expect_download() as downloading:
            page.click("#csv")
        rows = list(csv.DictReader(io.StringIO(Path(downloading.value.path()).read_text())))
        assert {row["label"] for row in rows} == {
            "",
            *(one["predictions"][0]["labels"][0]["label"] for one in expected),
        }
        assert [row["file"] for row in rows if row["error"]] == ["'=cmd,|'notes'.txt"]
        command = page.locator("#curl").inner_text()
        assert f":{http.port} unfreeze.v1.Classifier/Predict" in page.locator("#grpcurl").inner_text()
        # The refusal is the one expected line of the console, and all requests went to this server.
        assert [text for text in errors if "400 (Bad Request)" not in text] == []
        assert all(one.startswith((_address(http), "blob:")) for one in requested)
    (tmp_path / "image.jpg").write_bytes(files[0][1])
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)  # noqa: S602
    assert expected[0]["predictions"][0]["labels"][0]["label"] in done.stdout


@needs_chromium
def test_files_are_chosen_and_many_are_sent_one_after_another(http: Server, tmp_path: Path) -> None:
    """As on a phone; the number of labels is chosen."""
    paths = []
    for seed in range(20):
        paths.append(tmp_path / f"{seed}.png")
        paths[-1].write_bytes(encode(draw_image(COLORS["red"], seed), "PNG"))
    with opened(_address(http), width=390, dark=True) as (page, errors, _):
        page.wait_for_selector("#model option", state="attached")
        page.fill("#top", "2")
        page.set_input_files("#files", paths)
        page.wait_for_selector("text=20 classified")
        assert page.locator("#results > li").first.locator("ol li").count() == 2
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.click("#clear")
        assert page.locator("#results > li").count() == 0
        assert errors == []


@needs_chromium
def test_a_token_is_asked_for(repository: Path, tmp_path: Path) -> None:
    """Where the server wants one; it is kept in the page alone."""
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    tokens.chmod(0o600)
    with (
        server_in_thread(repository, http=0, token_file=tokens, insecure=True) as server,
        opened(_address(server)) as (page, _, _),
    ):
        page.wait_for_selector("#problem:has-text('a token is required')")
        page.fill("#token", "secret")
        page.keyboard.press("Tab")
        page.wait_for_selector("#curl:has-text('Authorization: Bearer TOKEN')")
        assert page.locator("#problem").is_hidden()
        assert page.evaluate("document.cookie + JSON.stringify({...localStorage, ...sessionStorage})") == "{}"


@needs_chromium
@needs_axe
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_serious_fault(http: Server, *, dark: bool) -> None:
    """With a result and a refusal on the page."""
    from base64 import b64encode

    files = [{"name": "a.jpg", "content": b64encode(encode(draw_image(COLORS["red"], 1))).decode()}]
    with opened(_address(http), dark=dark) as (page, _, _):
        page.wait_for_selector("#model option", state="attached")
        page.evaluate(DROP, [*files, {"name": "b.txt", "content": "AAAA"}])
        page.wait_for_selector("text=1 classified, 1 refused")
        assert accessibility_faults(page) == []
