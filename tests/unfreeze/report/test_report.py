"""The report of a real run, as a file and in a real browser."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.browser import accessibility_faults, needs_axe, needs_chromium, opened
from support.cli import run_cli

from bench.images import write_numbers, write_textures
from unfreeze.contract.errors import CheckpointError
from unfreeze.report.embedding import read_embedding
from unfreeze.report.run_files import read_run
from unfreeze.report.write import write_report
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

pytestmark = pytest.mark.xdist_group("report")

OPTIONS = TuneOptions(
    backbone="mobilenet_v3_small",
    weights="builtin",
    image_size=64,
    recipe="last-blocks",
    cut="features.12",
    learning_rate=5e-4,
    epochs=2,
    device="cpu",
    store_gb=0.0,
)
STRANGE = "<b onmouseover=alert(1)>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on textures, with a class whose name looks like a tag, and an image that has two labels."""
    folder = tmp_path_factory.mktemp("report")
    write_textures(folder / "data", 20)
    for split in ("train", "val"):
        kinds = sorted((folder / "data" / split).iterdir())
        kinds[3].rename(kinds[3].with_name(STRANGE))
    files = sorted((folder / "data" / "train").glob("*/*.jpg"))
    shutil.copy(files[0], files[-1].with_name("again.jpg"))
    fine_tune(folder / "data", folder / "run", OPTIONS)
    write_report(folder / "run")
    return folder / "run"


def _metrics(run: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return metrics


def test_predictions_are_those_of_the_metrics(run: Path) -> None:
    """Accuracy, confusion and the most confident mistake."""
    metrics, predictions = _metrics(run), read_run(run).predictions
    assert len(predictions) == metrics["images"]["val"]
    assert sum(one.is_correct for one in predictions) / len(predictions) == pytest.approx(metrics["val_accuracy"])
    labels = metrics["labels"]
    for one in predictions:
        metrics["confusion"][labels.index(one.label)][labels.index(one.predicted)] -= 1
        assert one.confidence == one.label_probability if one.is_correct else one.confidence >= one.label_probability
    assert not any(any(row) for row in metrics["confusion"])
    wrong = max((one for one in predictions if not one.is_correct), key=lambda one: one.confidence)
    assert metrics["misclassified"][0]["path"].endswith(wrong.path)
    assert metrics["misclassified"][0]["confidence"] == pytest.approx(wrong.confidence, abs=1e-4)


def test_is_one_file_that_refers_to_no_other(run: Path) -> None:
    """At most 10 MB; no address is loaded, and class names are text."""
    page = (run / "report.html").read_text()
    assert len(page) < 10_000_000
    own = page[: page.index("<script>")] + page[page.rindex("<script>") :]
    assert not re.search(r'(src|href)="(?!data:)', own)
    assert "default-src 'none'" in page
    assert STRANGE not in own
    assert own.count("data:image/jpeg;base64,") > 10


def test_moved_images_and_older_runs_are_reported_all_the_same(run: Path, tmp_path: Path) -> None:
    """Without the images, without the predictions."""
    shutil.copytree(run, tmp_path / "run")
    facts = json.loads((run / "run.json").read_text()) | {"data": str(tmp_path / "moved")}
    (tmp_path / "run" / "run.json").write_text(json.dumps(facts))
    page = write_report(tmp_path / "run").read_text()
    assert page.count("data:image/jpeg") == 1  # tiles of the map, all of them gray
    assert "not found" in page
    for name in ("predictions.csv", "label_issues.csv", "embedding.npz"):
        (tmp_path / "run" / name).unlink()
    page = write_report(tmp_path / "run").read_text()
    assert "Confusion matrix" in page
    assert 'data-plot="reliability"' not in page
    assert 'data-plot="embedding"' not in page
    (tmp_path / "run" / "model.safetensors").unlink()
    page = write_report(tmp_path / "run").read_text()
    assert "Time of one image" not in page


def test_the_command_writes_the_report(run: Path, tmp_path: Path) -> None:
    """And says where; a folder without a run is an error."""
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    done = run_cli("report", tmp_path / "run", "--json")
    assert json.loads(done.stdout) == {
        "report": str(tmp_path / "run" / "report.html"),
        "bytes": (tmp_path / "run" / "report.html").stat().st_size,
    }
    assert f"error: {tmp_path} contains no finished run" in run_cli("report", tmp_path).stderr
    (tmp_path / "run" / "predictions.csv").write_text("path,split\na.jpg,val\n")
    with pytest.raises(CheckpointError, match="is damaged"):
        write_report(tmp_path / "run")
    (tmp_path / "run" / "predictions.csv").unlink()
    metrics = _metrics(run)
    del metrics["standard_errors"]
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(CheckpointError, match="has no 'standard_errors': another version of unfreeze wrote it"):
        write_report(tmp_path / "run")


def test_tune_writes_the_report(run: Path, tmp_path: Path) -> None:
    """At the end of the command; a new run replaces it."""
    facts = json.loads((run / "run.json").read_text())
    words = ("tune", facts["data"], "--out", tmp_path / "run", "--weights", "builtin", "--recipe", "probe")
    done = run_cli(*words, "--image-size", "64", "--store-gb", "0")
    assert f"look: {tmp_path / 'run' / 'report.html'}" in done.stdout
    assert (tmp_path / "run" / "report.html").stat().st_size > 1_000_000


@needs_chromium
@needs_axe
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_browser_shows_all_of_it(run: Path, width: int, dark: bool) -> None:  # noqa: FBT001
    """Without errors and requests, also on a phone, where only tables and figures may be wider than the window.

    axe-core finds no serious fault of accessibility, in light or dark colors.
    """
    with opened((run / "report.html").as_uri(), width=width, dark=dark) as (page, errors, requested):
        page.wait_for_selector("#confusion .heatmaplayer")
        assert errors == []
        assert [address for address in requested if not address.startswith("data:")] == [(run / "report.html").as_uri()]
        assert page.locator(".js-plotly-plot").count() == 5
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)")
        assert accessibility_faults(page) == []


@needs_chromium
def test_tables_sort_and_cells_list_their_files(run: Path) -> None:
    """By keyboard too; a click on a cell with errors lists them."""
    metrics = _metrics(run)
    with opened((run / "report.html").as_uri()) as (page, errors, _):
        page.wait_for_selector("#confusion .heatmaplayer")
        header = page.get_by_role("button", name="recall")
        header.focus()
        page.keyboard.press("Enter")
        shown = page.locator("table.sortable tbody tr td:nth-child(4)").all_text_contents()
        assert [float(text) for text in shown] == sorted(float(text) for text in shown)
        assert len(shown) == len(metrics["labels"])
        page.keyboard.press("Enter")
        assert page.locator("table.sortable tbody tr td:nth-child(4)").all_text_contents()[0] == max(shown)
        wrong = max((one for one in read_run(run).predictions if not one.is_correct), key=lambda one: one.confidence)
        page.evaluate(
            "([label, predicted]) => document.getElementById('confusion').emit('plotly_click', "
            "{points: [{x: predicted, y: label, customdata: 1}]})",
            [one.replace("&", "&amp;").replace("<", "&lt;") for one in (wrong.label, wrong.predicted)],
        )
        assert wrong.path in page.locator("#cell").inner_text()
        assert errors == []


_PLACE = """
() => {
  const map = document.getElementById("embedding"), { x, y, customdata } = map.data[2];
  map.scrollIntoView();
  const box = map.getBoundingClientRect(), { xaxis, yaxis } = map._fullLayout;
  const place = [box.left + xaxis._offset + xaxis.l2p(x[1]), box.top + yaxis._offset + yaxis.l2p(y[1])];
  const shown = document.elementFromPoint(...place) !== null;
  return [...place, customdata[1], shown];
}
"""


@needs_chromium
def test_pointing_shows_the_image_and_where_the_network_looked(run: Path) -> None:
    """On the map, the tile and the path of the image; in a gallery, a map over the image, which a key shows too."""
    embedding = read_embedding(run)
    assert embedding is not None
    with opened((run / "report.html").as_uri()) as (page, errors, _):
        page.wait_for_selector("#embedding .scatterlayer")
        x, y, number, shown = page.evaluate(_PLACE)
        assert shown
        page.mouse.move(x - 3, y - 3)
        page.mouse.move(x, y)
        page.wait_for_selector("#place", state="visible")
        text = page.locator("#place span").inner_text()
        described = page.evaluate("JSON.parse(document.getElementById('places').textContent)")
        shown = [f"{one} ({path})" for one, path in zip(described["texts"], embedding.paths, strict=True)]
        number = shown.index(text)
        assert embedding.labels[number] in text
        style = page.locator("#place div").evaluate(
            "(one) => [one.style.backgroundPosition, one.style.backgroundImage]"
        )
        assert style[0] == f"{-(number % 32) * 128}px {-(number % 1024 // 32) * 128}px".replace("-0px", "0px")
        assert style[1].startswith('url("data:image/jpeg;base64,')
        page.mouse.move(0, 0)
        page.wait_for_selector("#place", state="hidden")
        button = page.locator(".gallery button").first
        heat = button.locator(".heat")
        assert heat.evaluate("(one) => one.naturalWidth") > 0
        assert heat.evaluate("(one) => getComputedStyle(one).opacity") == "0"
        button.focus()
        page.keyboard.press("Enter")
        page.wait_for_function("(one) => getComputedStyle(one).opacity === '1'", arg=heat.element_handle())
        assert button.get_attribute("aria-pressed") == "true"
        assert errors == []


@needs_chromium
@pytest.mark.exhaustive
def test_a_thousand_classes_stay_readable(tmp_path: Path) -> None:
    """Numbers from 000 to 999: below 10 MB, the table sorts, the map answers, nothing is loaded."""
    write_numbers(tmp_path / "data")
    fine_tune(tmp_path / "data", tmp_path / "run", replace(OPTIONS, recipe="probe", cut="auto", learning_rate=None))
    file = write_report(tmp_path / "run")
    assert file.stat().st_size < 10_000_000
    with opened(file.as_uri()) as (page, errors, requested):
        page.wait_for_selector("#confusion .heatmaplayer")
        page.get_by_role("button", name="recall").click()
        shown = page.locator("table.sortable tbody tr td:nth-child(4)").all_text_contents()
        assert len(shown) == 1000
        assert shown == sorted(shown)
        assert page.locator("#embedding .gl-canvas").count() > 0
        assert page.locator("#embedding .no-webgl").count() == 0
        x, y, *_ = page.evaluate(_PLACE.replace("data[2]", "data[0]"))
        page.mouse.move(x - 3, y - 3)
        page.mouse.move(x, y)
        page.wait_for_selector("#place", state="visible")
        assert errors == []
        assert [address for address in requested if not address.startswith("data:")] == [file.as_uri()]
