"""Comparisons of tiny networks on drawn images: result, files, command, and `tune --backbone auto`."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from support.browser import needs_chromium, opened
from support.cli import run_cli
from support.images import write_images
from support.tiny_networks import colorful

from unfreeze.compare.files import write_comparison
from unfreeze.compare.options import CompareOptions
from unfreeze.compare.result import Comparison, Row
from unfreeze.compare.run import compare_backbones
from unfreeze.tune.options import TuneOptions

TINY = "support.tiny_networks"
BACKBONES = f"{TINY}:wide,{TINY}:colorful,{TINY}:blind,{TINY}:missing"

pytestmark = pytest.mark.xdist_group("compare")


@dataclass(frozen=True)
class Made:
    """A dataset, the cache folder of the first comparison, and its result."""

    data: Path
    cache: Path
    result: Comparison

    def row(self, name: str) -> Row:
        """Return the row of a tiny network."""
        return next(row for row in self.result.rows if row.backbone == f"{TINY}:{name}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Compare four tiny networks, of which one does not exist."""
    folder = tmp_path_factory.mktemp("compare")
    write_images(folder / "data" / "train", 14)
    write_images(folder / "data" / "val", 4, first_seed=500)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNFREEZE_CACHE_DIR", str(folder / "cache"))
        result = compare_backbones(folder / "data", CompareOptions(backbones=BACKBONES), TuneOptions(device="cpu"))
    return Made(folder / "data", folder / "cache", result)


@pytest.fixture
def cached(made: Made, monkeypatch: pytest.MonkeyPatch) -> Made:
    """The same, with its cache."""
    monkeypatch.setenv("UNFREEZE_CACHE_DIR", str(made.cache))
    return made


def test_accuracy_latency_and_size_are_measured(made: Made) -> None:
    """The colors are told apart, except by the network that does not see them; the wide one is larger and slower."""
    colorful, wide, blind = (made.row(name) for name in ("colorful", "wide", "blind"))
    assert (made.result.images, made.result.classes, made.result.metric) == (42, 3, "accuracy")
    for row in (colorful, wide):
        assert (row.status, row.images, row.image_size) == ("compared", 42, (32, 32))
        assert row.accuracy is not None
        assert row.accuracy > 0.9
    assert blind.accuracy == pytest.approx(1 / 3, abs=0.1)
    assert blind.balanced_accuracy == pytest.approx(1 / 3, abs=0.1)
    assert colorful.parameters == (27 + 1) * 8 + (72 + 1) * 8 + (72 + 1) * 16 + 17 * 3
    assert wide.parameters is not None
    assert wide.parameters > 80_000
    assert wide.megabytes is not None
    assert wide.megabytes > 0.05
    assert colorful.latency_ms is not None
    assert wide.latency_ms is not None
    assert wide.latency_ms > colorful.latency_ms
    assert made.result.relative_cost <= 3


def test_recommended_is_the_fastest_that_is_not_clearly_worse(made: Made) -> None:
    """Both others classify all colors; the narrow one is faster."""
    assert made.result.recommended == (f"{TINY}:colorful", "default")
    assert made.result.recommended_row == f"{TINY}:colorful"
    assert f"Take {TINY}:colorful (" in made.result.reason
    assert made.row("colorful").on_front


def test_backbones_that_fail_are_rows_with_the_reason(cached: Made) -> None:
    """A function that does not exist, and infinite features, which are found after the export; the others go on."""
    missing = cached.result.rows[-1]
    assert (missing.status, missing.latency_ms) == ("failed", None)
    assert missing.note.startswith(f"--backbone {TINY}:missing: cannot import")
    options = CompareOptions(backbones=f"{TINY}:overflowing,{TINY}:blind")
    blind, overflowing = compare_backbones(cached.data, options, TuneOptions(device="cpu")).rows
    assert (blind.status, overflowing.status) == ("compared", "failed")
    assert "the network's features are NaN or infinite" in overflowing.note
    assert overflowing.latency_ms is not None


def test_second_comparison_computes_nothing(cached: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are the same, and no result is written again, unless everything is requested afresh."""
    options = CompareOptions(backbones=f"{TINY}:wide,{TINY}:colorful,{TINY}:blind")
    before = _written(cached.cache)
    again = compare_backbones(cached.data, options, TuneOptions(device="cpu"))
    assert again.rows == tuple(row for row in cached.result.rows if row.status != "failed")
    assert _written(cached.cache) == before
    copy = tmp_path / "cache"  # new latencies in the shared one would change what other tests expect
    shutil.copytree(cached.cache, copy)
    monkeypatch.setenv("UNFREEZE_CACHE_DIR", str(copy))
    before = _written(copy)
    compare_backbones(cached.data, replace(options, fresh=True), TuneOptions(device="cpu", store_gb=0))
    after = _written(copy)
    assert _changed(before, after, "latency") == _changed(before, after, "probe") == 3
    assert _changed(before, after, "tail") >= 1
    assert _changed(before, after, "precision") >= 1


def _written(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in (cache / "compare").iterdir()}


def _changed(before: dict[str, int], after: dict[str, int], kind: str) -> int:
    return sum(name.startswith(kind) and before.get(name) != written for name, written in after.items())


def test_scores_depend_on_the_images_and_latencies_do_not(cached: Made, tmp_path: Path) -> None:
    """With other images of as many classes, accuracy is computed again, and the stored latency is used."""
    data = write_images(tmp_path / "data", 9, first_seed=900)
    options = CompareOptions(backbones=f"{TINY}:blind")
    (row,) = compare_backbones(data, options, TuneOptions(device="cpu")).rows
    before = cached.row("blind")
    assert row.images != before.images
    assert row.parameters == before.parameters


def test_more_than_three_backbones_are_halved(cached: Made, tmp_path: Path) -> None:
    """Of ten with the same speed, most are dropped on few images, with the reason; the others are compared on all."""
    files = [tmp_path / f"{number}.pth" for number in range(10)]
    for file in files:
        torch.save(colorful().state_dict(), file)
    options = CompareOptions(backbones=",".join(f"{TINY}:colorful={file}" for file in files))
    result = compare_backbones(cached.data, options, TuneOptions(device="cpu", store_gb=0))
    dropped = [row for row in result.rows if row.status == "dropped"]
    assert dropped
    assert all(row.images < 42 and row.note.startswith(f"after {row.images} images: ") for row in dropped)
    assert not any(row.on_front for row in dropped)
    assert [row.images for row in result.rows if row.status == "compared"] == [42] * (10 - len(dropped))
    assert result.recommended_row is not None


def test_backbones_that_cannot_meet_the_budget_are_not_evaluated(cached: Made) -> None:
    """More than three times the budget is too slow for int8, too; the fastest is always evaluated."""
    narrow, wide = cached.row("colorful"), cached.row("wide")
    assert narrow.latency_ms is not None
    assert wide.latency_ms is not None
    budget = min(narrow.latency_ms, wide.latency_ms) / 4
    options = CompareOptions(backbones=f"{TINY}:wide,{TINY}:colorful", budget_ms=budget)
    result = compare_backbones(cached.data, options, TuneOptions(device="cpu"))
    assert [row.status for row in result.rows] == ["compared", "dropped"]
    assert result.rows[1].note == "more than 3 times the budget"
    assert [row.within_budget for row in result.rows] == [False, False]
    assert result.recommended is None
    assert "No backbone answers within" in result.reason


class _Links(HTMLParser):
    """Collects what a page would load, and its text outside of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.text: list[str] = []
        self._script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._script = tag in ("script", "style")
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._script = False

    def handle_data(self, data: str) -> None:
        if not self._script:
            self.text.append(data)


def test_files_hold_the_whole_result_and_load_nothing(made: Made, tmp_path: Path) -> None:
    """JSON has every row; the page has the plot's library, the table and the reason, and refers to no other file."""
    json_file, page_file = write_comparison(made.result, tmp_path / "new" / "out")
    document = json.loads(json_file.read_bytes())
    assert document["recommended"] == {"backbone": f"{TINY}:colorful", "weights": "default"}
    assert [row["backbone"] for row in document["rows"]] == [row.backbone for row in made.result.rows]
    assert document["rows"][0]["latency_ms"] == made.result.rows[0].latency_ms
    page = page_file.read_text("utf-8")
    links = _Links()
    links.feed(page)
    text = " ".join(links.text)
    assert links.loaded == []
    assert "http" not in text
    assert made.result.reason in text
    assert all(row.backbone in text for row in made.result.rows)
    assert "Plotly.newPlot" in page
    assert '"type":"log"' in page
    assert '"name":"Pareto front"' in page
    assert len(page) > 1_000_000  # the library is inside


@needs_chromium
def test_a_browser_shows_the_page(made: Made, tmp_path: Path) -> None:
    """With the plot, without errors and requests, also on a phone."""
    _, page_file = write_comparison(made.result, tmp_path)
    with opened(page_file.as_uri(), width=390) as (page, errors, requested):
        page.wait_for_selector("#latency .scatterlayer .trace")
        assert errors == []
        assert [address for address in requested if not address.startswith("data:")] == [page_file.as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_page_escapes_names(made: Made, tmp_path: Path) -> None:
    """A name is text in the table, and in the plot."""
    name = "<img src=x onerror=alert(1)>"
    rows = tuple(replace(row, backbone=name, note=name) for row in made.result.rows)
    write_comparison(replace(made.result, rows=rows, data=name, reason=name), tmp_path)
    page = (tmp_path / "compare.html").read_text("utf-8")
    assert "<img" not in page


def test_without_the_extra_there_is_json_only(made: Made, tmp_path: Path) -> None:
    """It replaces that of an earlier comparison."""
    code = (
        "import sys; sys.modules['plotly'] = None; from unfreeze.command import main; "
        f"main(['compare', {str(made.data)!r}, '--backbones', '{TINY}:blind', '--out', 'out'])"
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "compare.json").write_text("old")
    command, environment = [sys.executable, "-c", code], _environment(made.cache)
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["compare.json"]
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["rows"][0]["backbone"] == f"{TINY}:blind"
    assert "for a plot in compare.html: pip install 'unfreeze[report]'" in done.stdout


def _environment(cache: Path) -> dict[str, str]:
    """Return an environment in which a process finds the tiny networks."""
    paths = ":".join(path for path in sys.path if path)
    return os.environ | {"UNFREEZE_CACHE_DIR": str(cache), "PYTHONPATH": paths, "COLUMNS": "200"}


def test_interrupted_comparison_leaves_nothing_broken(made: Made, tmp_path: Path) -> None:
    """Ctrl-C exits with 130, without files in OUT or temporary files; the next comparison uses what was stored."""
    temporary, cache = tmp_path / "temporary", tmp_path / "cache"
    temporary.mkdir()
    command = [sys.executable, "-m", "unfreeze.command", "compare", str(made.data), "--backbones"]
    command += [f"{TINY}:blind,{TINY}:colorful", "--device", "cpu", "--out", "out"]
    environment = _environment(cache) | {"TMPDIR": str(temporary)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as process:
        until = time.monotonic() + 120
        while not list(cache.glob("compare/latency-*.json")) and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "out").exists()
    assert not list(temporary.glob("unfreeze-*"))
    assert not list(cache.rglob("*.new"))


def test_command_prints_table_recommendation_and_next_step(cached: Made, tmp_path: Path) -> None:
    """With `--json`, one JSON document."""
    command = ("compare", cached.data, "--backbones", BACKBONES, "--device", "cpu", "--out", "out")
    done = run_cli(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert cached.result.reason in words
    assert f"next: unfreeze tune {cached.data} --out run --backbone {TINY}:colorful" in words
    assert f"{TINY}:missing is left out: --backbone {TINY}:missing: cannot import" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare.html", "compare.json"]
    document = json.loads(run_cli(*command, "--json", cwd=tmp_path).stdout)
    assert document["recommended"]["backbone"] == f"{TINY}:colorful"


def test_tune_takes_what_compare_recommends(cached: Made, tmp_path: Path) -> None:
    """`--backbone auto` tunes the recommended backbone and records the reason."""
    command = ("tune", cached.data, "--out", tmp_path / "run", "--device", "cpu", "--backbone", "auto")
    done = run_cli(*command, "--backbones", BACKBONES, "--json")
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert metrics["backbone"] == f"{TINY}:colorful"
    assert metrics["options"]["backbone_reason"] == cached.result.reason
    assert cached.result.reason in " ".join(done.stderr.split())
    again = run_cli(*command, "--backbones", BACKBONES)
    assert "already contains a run" in again.stderr
    assert "inspecting" not in again.stderr


def test_tune_auto_without_a_recommendation_fails(cached: Made, tmp_path: Path) -> None:
    """No folder is created."""
    command = ("tune", cached.data, "--out", tmp_path / "run", "--device", "cpu", "--backbone", "auto")
    done = run_cli(*command, "--backbones", f"{TINY}:missing")
    assert done.returncode == 1
    assert "error: --backbone auto: No backbone could be compared" in done.stderr
    assert not (tmp_path / "run").exists()
