"""The loop: serve and record, review, tune again; on handwritten digits that arrive in a new look."""

import hashlib
import io
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from bench.images import write_digits
from unfreeze.contract.reporting import Reporter
from unfreeze.demo.serving import serving
from unfreeze.export.run import export_model
from unfreeze.review.decisions import LABEL, locked
from unfreeze.review.merge import merge
from unfreeze.review.recorded import read_recording
from unfreeze.review.session import Session
from unfreeze.serve.client.blocking import Client
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

_NAME, _CACHE = "digits", "UNFREEZE_CACHE_DIR"
_TURN_DEGREES = 25
Labeled = Mapping[bytes, str]


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What one turn of the loop gave.

    Args:
        sent: images that callers sent, in the usual and in the new look.
        recorded: of these, that the server kept.
        recorded_shifted: of these, in the new look.
        reviewed: that a person looked at.
        corrected: of these, whose label the model had wrong.
        before: accuracy of the first version by look.
        after: accuracy of the second version by look.
        with_store_s: seconds of tuning again, with the feature store of the first run.
        without_store_s: the same without a feature store.
    """

    sent: int
    recorded: int
    recorded_shifted: int
    reviewed: int
    corrected: int
    before: dict[str, float]
    after: dict[str, float]
    with_store_s: float
    without_store_s: float


def run_loop(folder: Path, reviewed: int, rounds: int, recipe: str, reporter: Reporter) -> Loop:
    """Tune, serve and record, review, tune again and compare.

    Args:
        folder: for everything that is written.
        reviewed: number of images that are reviewed.
        rounds: how often tuning again is timed, with and without the store in turn.
        recipe: as for `unfreeze tune`.
        reporter: receives progress.
    """
    write_digits(folder / "data")
    sent, judged = _looks(folder / "data" / "val")
    options = TuneOptions(weights="builtin", recipe=recipe, flip="no", abstain_precision=0.95)
    os.environ[_CACHE] = str(folder / "cache")
    fine_tune(folder / "data", folder / "first", options, reporter)
    export_model(folder / "first", folder / "models", _NAME)
    record = "--record", str(folder / "recorded"), "--record-consent", "all"
    before = _judge(folder, judged)
    with serving(folder / "models", *record) as target, Client(target) as client:
        for images in sent.values():
            client.predict(list(images), model=_NAME, top_k=1)
    truth = {hashlib.sha256(image).hexdigest(): label for images in sent.values() for image, label in images.items()}
    new = {hashlib.sha256(image).hexdigest() for image in sent["new"]}
    merge(folder / "data", folder / "labeled")
    recorded, corrected, looked_at = _review(folder, truth, reviewed)
    seconds = _time_tuning(folder, options, rounds, reporter)
    export_model(folder / "second", folder / "models", _NAME)
    after = _judge(folder, judged)
    return Loop(
        sent=sum(map(len, sent.values())),
        recorded=len(recorded),
        recorded_shifted=len(recorded & new),
        reviewed=looked_at,
        corrected=corrected,
        before=before,
        after=after,
        with_store_s=seconds["with"],
        without_store_s=seconds["without"],
    )


def _looks(folder: Path) -> tuple[dict[str, Labeled], dict[str, Labeled]]:
    """Take half of the validation images out of the data: to be sent, and to judge by, each in both looks."""
    files = sorted(folder.rglob("*.jpg"))
    looks: dict[str, Callable[[Path], bytes]] = {"usual": Path.read_bytes, "new": _in_new_look}
    sent, judged = (
        {look: {draw(path): path.parent.name for path in files[part::4]} for look, draw in looks.items()}
        for part in (0, 1)
    )
    for path in (*files[0::4], *files[1::4]):
        path.unlink()
    return sent, judged


def _in_new_look(path: Path) -> bytes:
    """Draw an image turned, dark on light and tinted: as a second camera, mounted in another way, might see it."""
    turned = Image.open(path).convert("RGB").rotate(_TURN_DEGREES, Image.Resampling.BICUBIC)
    tinted = (255 - np.asarray(turned, np.float32)) * np.array([0.9, 0.8, 0.6])
    buffer = io.BytesIO()
    Image.fromarray(tinted.astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _judge(folder: Path, judged: Mapping[str, Labeled]) -> dict[str, float]:
    """Return the accuracy of the newest version by look."""
    with serving(folder / "models") as target, Client(target) as client:
        return {look: _accuracy(client, images) for look, images in judged.items()}


def _accuracy(client: Client, images: Labeled) -> float:
    found = client.predict(list(images), model=_NAME, top_k=1)
    return float(np.mean([one[0].label == label for one, label in zip(found, images.values(), strict=True)]))


def _review(folder: Path, truth: Mapping[str, str], most: int) -> tuple[set[str], int, int]:
    """Answer as a person would who knows the true labels.

    Returns:
        What was recorded, how many images the model had wrong, and how many were looked at.
    """
    recording = read_recording(folder / "recorded")
    corrected = looked_at = 0
    with locked(recording.folder):
        session = Session(recording, folder / "labeled")
        for _ in range(most):
            image = session.state()["image"]
            if image is None:
                break
            label = truth[image["digest"]]
            corrected += label != image["scores"][0]["label"]
            looked_at += 1
            session.decide(image["digest"], LABEL, label)
    return set(recording.images), corrected, looked_at


def _time_tuning(folder: Path, options: TuneOptions, rounds: int, reporter: Reporter) -> dict[str, float]:
    """Tune again in turn with a copy of the first run's store, and with an empty one that is not kept."""
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    for number in range(rounds):
        for kind in ("with", "without") if number % 2 else ("without", "with"):
            cache = folder / f"cache-{kind}-{number}"
            if kind == "with":
                shutil.copytree(folder / "cache", cache)
            os.environ[_CACHE] = str(cache)
            started = time.monotonic()
            fine_tune(folder / "labeled", folder / "second", options, reporter, overwrite=True)
            seconds[kind].append(time.monotonic() - started)
    return {kind: median(found) for kind, found in seconds.items()}
