"""The whole way on images that are drawn on the spot: draw, tune, export, serve, ask."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfreeze.contract.errors import ServingError
from unfreeze.contract.reporting import Reporter
from unfreeze.demo.options import DemoOptions
from unfreeze.demo.wallpaper_folder import WallpaperSet, write_wallpaper_groups
from unfreeze.export.run import Published, export_model
from unfreeze.serve.client.blocking import Client
from unfreeze.serve.client.local import LocalClassifier
from unfreeze.tune.backbones.weights import BUILTIN_BACKBONE
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

MODEL = "wallpaper"
_CLIENTS = 8
_ANSWERING = "serving "


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the demonstration measured.

    Args:
        metrics: of tuning.
        published: what was exported.
        same_labels: how many validation images got the same first label from the server as in this process.
        asked: how many validation images were asked for.
        requests_per_second: of one encoded image each, by eight clients at once.
        seconds: all of it.
    """

    metrics: dict[str, Any]
    published: Published
    same_labels: int
    asked: int
    requests_per_second: float
    seconds: float


def run_demo(out: Path, options: DemoOptions, reporter: Reporter) -> Outcome:
    """Draw images, tune the builtin backbone to them, export, serve and ask.

    Args:
        out: folder that takes the images, the run and the model repository.
        options: how large it is.
        reporter: shows progress.

    Raises:
        UnfreezeError: a step failed.
    """
    started = time.monotonic()
    data = out / "images"
    write_wallpaper_groups(data, drawing(options), reporter)
    metrics = fine_tune(data, out / "run", tuning(options), reporter, overwrite=True)
    published = export_model(out / "run", out / "models", MODEL, reporter=reporter)
    asked = [path.read_bytes() for path in sorted((data / "val").rglob("*.*"))]
    with serving(out / "models") as target:
        reporter.info(f"serving on {target}; asking about all {len(asked)} validation images")
        same = _same_labels(target, published.path, asked)
        rate = requests_per_second(target, MODEL, asked, options.seconds)
    return Outcome(
        metrics=metrics,
        published=published,
        same_labels=same,
        asked=len(asked),
        requests_per_second=rate,
        seconds=time.monotonic() - started,
    )


def drawing(options: DemoOptions) -> WallpaperSet:
    """Say which images the demonstration draws."""
    return WallpaperSet(train_per_class=options.train_per_class, val_per_class=options.val_per_class, seed=options.seed)


def tuning(options: DemoOptions, weights: str = "builtin") -> TuneOptions:
    """Say how the demonstration tunes.

    Args:
        options: of the demonstration.
        weights: to start from.
    """
    return TuneOptions(
        backbone=BUILTIN_BACKBONE,
        weights=weights,
        epochs=options.epochs,
        seed=options.seed,
    )


@contextmanager
def serving(repository: Path, *arguments: str) -> Iterator[str]:
    """Run `unfreeze serve` in a process of its own, on a free port.

    Args:
        repository: folder of models.
        arguments: more of what `unfreeze serve` takes.

    Yields:
        "host:port".

    Raises:
        ServingError: it does not start.
    """
    command = [sys.executable, "-m", "unfreeze.command", "serve", "--repository", str(repository)]
    command += ["--port", "0", "--no-metrics"]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own command
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line.startswith(_ANSWERING):
                raise ServingError("the server did not start; it says why above")
            yield line.split()[-1]
        finally:
            process.send_signal(signal.SIGTERM)


def _same_labels(target: str, model: Path, images: Sequence[bytes]) -> int:
    with Client(target) as client, LocalClassifier(model) as local:
        served = client.predict(images, model=MODEL, top=1)
        inside = local.predict(images, top=1)
    return sum(one[0].label == other[0].label for one, other in zip(served, inside, strict=True))


def requests_per_second(target: str, model: str, images: Sequence[bytes], seconds: float) -> float:
    """Ask a server for one encoded image a request, by eight clients at once, each one request after the other.

    Args:
        target: "host:port".
        model: on the server.
        images: encoded ones, asked in turn.
        seconds: how long.
    """
    until = time.monotonic() + seconds

    def ask(first: int) -> int:
        answered = 0
        with Client(target) as client:
            while time.monotonic() < until:
                client.predict([images[(first + answered) % len(images)]], model=model, top=1)
                answered += 1
        return answered

    started = time.monotonic()
    with ThreadPoolExecutor(_CLIENTS) as pool:
        answered = sum(pool.map(ask, range(0, _CLIENTS * 100, 100)))
    return answered / (time.monotonic() - started)
