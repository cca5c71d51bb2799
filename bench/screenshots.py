"""The screenshots in the documents: the report of a run and the page to try a model, on scikit-learn's digits.

python -m bench.screenshots --out docs

Needs Chromium. Light and dark, 1280 and 390 pixels wide: `report-light.png`, `report-dark-390.png` and so on.
"""

import io
import shutil
import tempfile
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
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

_LOOKS = {"light": (1280, "light"), "dark": (1280, "dark"), "light-390": (390, "light"), "dark-390": (390, "dark")}
_HEIGHTS = {1280: 1500, 390: 1800}
_COLORS = 96
_PORT = 18080


def main(*, out: Path = Path("docs")) -> None:
    """Tune on handwritten digits, and photograph the report and the page.

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
        with serving(folder / "models", "--poll-s", "0", "--http", str(_PORT)), sync_playwright() as driver:
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
                page.close()
            browser.close()
    RESULTS.print(f"written: report-*.png and page-*.png in {out}", markup=False)


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
