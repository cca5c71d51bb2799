"""A real browser, Debian's Chromium, driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_AXE = Path(__file__).parents[1] / "node_modules" / "axe-core" / "axe.min.js"
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (on Debian: apt install chromium)")

needs_axe = pytest.mark.skipif(not _AXE.is_file(), reason="needs npm, with which `make test` installs axe-core")


def accessibility_faults(page: Page) -> list[str]:
    """Return the serious and critical faults that axe-core finds on a page: rule and elements."""
    page.evaluate(_AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {[node['target'] for node in one['nodes']][:3]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


@contextmanager
def opened(address: str, *, width: int = 1280, dark: bool = False) -> Iterator[tuple[Page, list[str], list[str]]]:
    """Open a page.

    Args:
        address: of the page.
        width: of the window, in pixels.
        dark: prefer dark colors.

    Yields:
        The page, errors of its console and uncaught ones, and the addresses that it requested.
    """
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--enable-unsafe-swiftshader"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
        errors: list[str] = []
        requested: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(address)
        yield page, errors, requested
        browser.close()
