"""The page of a review, by keyboard alone in a real browser."""

import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page
from support.browser import accessibility_faults, needs_axe, needs_chromium, opened
from support.recorded import drawn, record

SCORES = ((0.4, 0.35, 0.25), (0.5, 0.3, 0.2), (0.2, 0.6, 0.2), (0.1, 0.1, 0.8), (0.8, 0.1, 0.1), (0.9, 0.05, 0.05))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Six images."""
    return record(tmp_path / "recorded", [(drawn(seed), scores) for seed, scores in enumerate(SCORES)])


@contextmanager
def _reviewed(recorded: Path, *arguments: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run the command, and yield the address of its page and its process."""
    command = [sys.executable, "-m", "unfreeze.command", "review", str(recorded), *arguments]
    environment = os.environ | {"COLUMNS": "200"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("review: http://127.0.0.1:"), line
        try:
            yield line.split()[1], process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(30)


def _shown(page: Page) -> str:
    return str(page.locator("#image").get_attribute("data-digest"))


def _press(page: Page, *keys: str) -> None:
    """Press keys, of which the last one decides, and wait for the next image."""
    before = _shown(page)
    for key in keys:
        page.keyboard.press(key)
    page.wait_for_function(
        "before => document.getElementById('image').dataset.digest !== before || "
        "!document.getElementById('finished').hidden",
        arg=before,
    )


@needs_chromium
def test_a_review_by_keyboard_alone(recorded: Path) -> None:  # noqa: PLR0915 - one review from start to end
    """Confirm, a number, a name with completion, a new class, none, skip, undo; then the command says what came out."""
    out, given = recorded.with_name("recorded-labeled"), {}
    with _reviewed(recorded) as (address, process), opened(address) as (page, errors, requested):
        page.wait_for_selector("#work:not([hidden])")
        first = _shown(page)
        assert first == _digest(drawn(0))  # with the smallest margin
        assert page.evaluate("document.getElementById('image').decode().then(() => true)")
        assert page.locator("#predicted").inner_text() == "daisy"
        assert page.locator("#scores button").all_inner_texts() == [
            "1\ndaisy\n40.0 %",
            "2\nrose\n35.0 %",
            "3\ntulip\n25.0 %",
        ]
        _press(page, "Enter")
        given[first] = "daisy"
        assert (out / "daisy" / f"{first}.png").is_file()
        second = _shown(page)
        number = page.locator("#scores button").nth(1).inner_text().split()[1]
        _press(page, "2")
        given[second] = number
        third = _shown(page)
        page.keyboard.type("tu")
        assert page.locator("#matches li").all_inner_texts() == ["tulip"]
        assert page.locator("#label").get_attribute("aria-activedescendant") == "match-0"
        _press(page, "Enter")
        given[third] = "tulip"
        fourth = _shown(page)
        page.keyboard.type("red poppy 2")
        page.keyboard.press("Enter")
        assert "no class red poppy 2 yet" in page.locator("#status").inner_text()
        _press(page, "Enter")
        given[fourth] = "red poppy 2"
        fifth = _shown(page)
        _press(page, "-")
        sixth = _shown(page)
        page.keyboard.press("Space")
        page.wait_for_selector("#finished:not([hidden])")
        assert page.locator("#finished-title").inner_text() == "1 image skipped"
        assert "4 images labeled, 1 of no class" in page.locator("#finished-text").inner_text()
        page.keyboard.press("Backspace")
        page.wait_for_selector("#work:not([hidden])")
        assert _shown(page) == sixth
        _press(page, "Backspace")
        assert _shown(page) == fifth
        page.keyboard.type("red")
        assert page.locator("#matches li").all_inner_texts() == ["red poppy 2"]
        page.keyboard.press("Escape")
        assert page.locator("#label").input_value() == ""
        _press(page, "/", "r", "o", "Enter")
        given[fifth] = "rose"
        page.click("#done")
        page.wait_for_selector("text=The review has ended")
        assert process.wait(30) == 0
        said = process.stdout.read()
        assert errors == []
        assert all(one.startswith((address, "data:")) for one in requested)
    assert {path.stem: path.parent.name for path in out.rglob("*.png")} == given
    assert "5 images labeled" in said
    assert "0 of no class, 1 left" in said
    assert f"next: unfreeze tune {out}" in said


@needs_chromium
@needs_axe
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_serious_fault(recorded: Path, *, dark: bool) -> None:
    """With matches shown, on a narrow window, and at the end."""
    with _reviewed(recorded) as (address, _), opened(address, dark=dark, width=390) as (page, errors, _):
        page.wait_for_selector("#work:not([hidden])")
        page.keyboard.type("t")
        page.wait_for_selector("#matches li")
        assert accessibility_faults(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.keyboard.press("Escape")
        for _ in range(5):
            _press(page, "-")
        page.keyboard.press("-")
        page.wait_for_selector("#finished:not([hidden])")
        assert accessibility_faults(page) == []
        assert errors == []


def _call(
    address: str, path: str = "", body: object = None, headers: dict[str, str] | None = None, method: str | None = None
) -> tuple[int, str, dict[str, str]]:
    found = urlsplit(address)
    connection = http.client.HTTPConnection(str(found.hostname), found.port)
    content = None if body is None else json.dumps(body)
    connection.request(method or ("GET" if body is None else "POST"), f"{found.path}{path}", content, headers or {})
    response = connection.getresponse()
    answer = response.status, response.read().decode("utf-8", "replace"), dict(response.getheaders())
    connection.close()
    return answer


def test_nobody_else_gets_in(recorded: Path) -> None:
    """Not without the token, not from another page, not under another name; nothing is loaded from elsewhere."""
    with _reviewed(recorded) as (address, _):
        status, page, headers = _call(address)
        assert status == 200
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        for path in ("", "review.js", "review.css"):
            assert "https://" not in _call(address, path)[1]
        assert "http://" not in page
        root = "/".join(address.split("/")[:3])
        decision = {"digest": _digest(drawn(0)), "kind": "label", "label": "rose"}
        for wrong in (f"{root}/", f"{root}/{'x' * 32}/", f"{root}/state/", f"{root}//"):
            assert _call(wrong)[0] == 404
            assert _call(wrong, "decide", decision)[0] == 404
        assert _call(address, headers={"host": "evil.example"})[0] == 403
        assert _call(address, "decide", decision, {"origin": "http://evil.example"})[0] == 403
        assert _call(address, "images/..%2f..%2fdecisions.jsonl")[0] == 404
        assert _call(address, "images/" + "0" * 64)[0] == 404
        assert _call(address, "done")[0] == 405
        for broken in ([], {}, {"digest": 5}, decision | {"kind": "remove"}, decision | {"label": "../../x"}):
            assert _call(address, "decide", broken)[0] == 400
        assert json.loads(_call(address, "state")[1])["labeled"] == 0
        assert _call(address, "decide", decision)[0] == 200
    assert {path.parent.name for path in recorded.with_name("recorded-labeled").rglob("*.png")} == {"rose"}


def test_a_second_review_of_the_same_images_is_told(recorded: Path) -> None:
    """Ctrl-C ends the first one with a summary and exit code 0."""
    with _reviewed(recorded) as (_, process):
        command = [sys.executable, "-m", "unfreeze.command", "review", str(recorded)]
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert f"is being reviewed already, by process {process.pid}" in second.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert "0 images labeled" in process.stdout.read()
