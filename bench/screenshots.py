"""The screenshots in the documents: report of a run, page to try a model, page of a review, on scikit-learn's digits.

python -m bench.screenshots --out docs

Needs Chromium. Light and dark, 1280 and 390 pixels wide: `report-light.png`, `report-dark-390.png` and so on.
"""

import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cyclopts
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from bench.images import write_digits
from unfreeze.console import RESULTS
from unfreeze.contract.errors import UnfreezeError
from unfreeze.demo.serving import serving
from unfreeze.export.run import export_model
from unfreeze.report.write import write_report
from unfreeze.serve.client.blocking import Client
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

_LOOKS = {"light": (1280, "light"), "dark": (1280, "dark"), "light-390": (390, "light"), "dark-390": (390, "dark")}
_HEIGHTS = {1280: 1500, 390: 1800}
_REVIEW_HEIGHTS = {1280: 760, 390: 1150}
_COLORS = 96
_PORT = 18080


def main(*, out: Path = Path("docs")) -> None:
    """Tune on handwritten digits, and photograph the report and the pages.

    Args:
        out: folder of the images.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_digits(folder / "digits")
        mislabeled = folder / "digits" / "train"
        kinds = sorted(mislabeled.iterdir())
        for number, kind in enumerate(kinds[:5]):  # a few wrong labels to be found
            first = sorted(kind.iterdir())[number]
            first.rename(kinds[number + 5] / f"{kind.name}-{first.name}")
        fine_tune(folder / "digits", folder / "run", TuneOptions(weights="builtin", store_gb=0.0))
        report = write_report(folder / "run")
        export_model(folder / "run", folder / "models", "digits")
        files = [min(kind.iterdir()) for kind in sorted((folder / "digits" / "val").iterdir())[3:6]]
        (folder / "notes.txt").write_text("no image")
        record = "--record", str(folder / "recorded"), "--record-share", "1", "--record-consent", "all"
        with serving(folder / "models", *record) as target, Client(target) as client:
            client.predict(sorted((folder / "digits" / "val").rglob("*.jpg"))[::5])
        http = "--poll-s", "0", "--http", str(_PORT)
        with serving(folder / "models", *http), _reviewing(folder) as review, sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=_chromium(), args=["--no-sandbox"])
            for look, (width, scheme) in _LOOKS.items():
                page = browser.new_page(viewport={"width": width, "height": _HEIGHTS[width]}, color_scheme=scheme)  # type: ignore[arg-type]
                page.goto(report.as_uri())
                page.wait_for_selector("#confusion .heatmaplayer")
                _save(page, out / f"report-{look}.png")
                page.goto(f"http://127.0.0.1:{_PORT}/")
                page.wait_for_selector("#model option", state="attached")
                page.set_input_files("#files", [*files, folder / "notes.txt"])
                page.wait_for_selector("text=3 classified, 1 refused")
                _save(page, out / f"page-{look}.png")
                page.goto(review)
                page.wait_for_selector("#work:not([hidden])")
                page.evaluate("document.getElementById('image').decode()")
                page.set_viewport_size({"width": width, "height": _REVIEW_HEIGHTS[width]})
                _save(page, out / f"review-{look}.png")
                page.close()
            browser.close()
    RESULTS.print(f"written: report-*.png, page-*.png and review-*.png in {out}", markup=False)


@contextmanager
def _reviewing(folder: Path) -> Iterator[str]:
    """Run `unfreeze review`, and yield the address of its page."""
    arguments = "review", "recorded", "--out", "labeled"
    command = [sys.executable, "-m", "unfreeze.command", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        try:
            yield process.stdout.readline().split()[1] if process.stdout else ""
        finally:
            process.terminate()


def _chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        raise UnfreezeError("Chromium is not installed; on Debian: apt install chromium")
    return found


def _save(page: Page, path: Path) -> None:
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.quantize(_COLORS).save(path, optimize=True)


if __name__ == "__main__":
    cyclopts.run(main)
