"""The loop: serve with --record, correct the answers on the page of `unfreeze review`, tune again, serve the result."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page
from support.browser import needs_chromium, opened
from support.servers import running_server
from support.shapes import draw_shapes, write_shapes

from unfreeze.export.run import export_model
from unfreeze.serve.client.blocking import Client
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("photographs"), needs_chromium]

OPTIONS = TuneOptions(weights="builtin", image_size=64, recipe="probe", flip="no", device="cpu")
REVIEWED = 30


def _accuracy(client: Client, images: Mapping[bytes, str]) -> float:
    found = client.predict(list(images), model="shapes", top_k=1)
    return float(np.mean([one[0].label == label for one, label in zip(found, images.values(), strict=True)]))


def _wait_for_version(client: Client, version: str) -> None:
    until = time.monotonic() + 60
    while not any(one.version == version and one.state == "READY" for one in client.list_models()):
        assert time.monotonic() < until, client.list_models()
        time.sleep(0.1)


@contextmanager
def _page(recorded: Path, *arguments: object) -> Iterator[Page]:
    command = [sys.executable, "-m", "unfreeze.command", "review", str(recorded), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"}) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1]
        try:
            with opened(address) as (page, errors, _):
                yield page
                assert errors == []
        finally:
            process.terminate()


def _review(page: Page, truth: Mapping[str, str], count: int) -> int:
    """Give the true label of so many images, by keyboard; return how many the model had wrong."""
    page.wait_for_selector("#work:not([hidden])")
    corrected = 0
    for number in range(count):
        digest = page.locator("#image").get_attribute("data-digest")
        true = truth[str(digest)]
        if page.locator("#predicted").inner_text() == true:
            page.keyboard.press("Enter")
        else:
            corrected += 1
            page.keyboard.type(true)
            page.keyboard.press("Enter")
        page.wait_for_function("n => document.getElementById('progress').value === n", arg=number + 1)
    return corrected


def test_corrected_answers_make_the_next_version_better(tmp_path: Path) -> None:
    """On other images of the new kind, which neither the page nor training has seen, and not worse on the old kind."""
    data, models, recorded, labeled = (tmp_path / name for name in ("data", "models", "recorded", "labeled"))
    write_shapes(data, 25)
    fine_tune(data, tmp_path / "first", OPTIONS)
    export_model(tmp_path / "first", models, "shapes")
    sent, others = draw_shapes(10_000, 10, sketched=True), draw_shapes(20_000, 20, sketched=True)
    usual = draw_shapes(50_000, 5)
    record = ("--record", str(recorded), "--record-share", "1", "--poll-s", "0.2", "--threads", "1", "--instances", "1")
    with running_server(models, *record) as server, Client(server.target) as client:
        before = _accuracy(client, others)
        with Client(server.target, store=True) as willing:
            _accuracy(willing, sent)
        truth = {hashlib.sha256(image).hexdigest(): label for image, label in sent.items()}
        until = time.monotonic() + 30
        while len(list(recorded.glob("shapes/1/??/*.json"))) < len(sent):
            assert time.monotonic() < until
            time.sleep(0.05)
        with _page(recorded, "--out", labeled, "--merge", data) as page:
            corrected = _review(page, truth, REVIEWED)
        assert {path.stem for path in recorded.glob("shapes/1/??/*.json")} == truth.keys()  # of the others, none
        fine_tune(labeled, tmp_path / "second", OPTIONS)
        metrics = json.loads((tmp_path / "second" / "metrics.json").read_text())
        assert metrics["images"] == {"train": 80 + REVIEWED, "val": 20}
        export_model(tmp_path / "second", models, "shapes")
        _wait_for_version(client, "2")
        after = _accuracy(client, others)
        assert corrected > 0
        assert before < 0.8
        assert after > max(0.9, before + 0.1)
        assert _accuracy(client, usual) >= 0.95
