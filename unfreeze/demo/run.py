"""The whole way on pictures that are drawn on the spot: draw, tune, export, serve, ask."""

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

from contract.errors import ServingError
from contract.reporting import Reporter
from export.run import Published, export
from serve.client import Client
from serve.local import LocalClassifier
from tune.options import TuneOptions
from tune.run import tune
from tune.weights import BUILTIN_BACKBONE
from unfreeze.demo.options import DemoOptions
from unfreeze.demo.wallpaper_folder import WallpaperSet, write_wallpaper_groups

MODEL = "wallpaper"
_CLIENTS = 8
_ANSWERING = "serving "


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the demonstration measured.

    Args:
        metrics: of tuning.
        published: what was exported.
        same_labels: how many validation pictures got the same first label from the server as in this process.
        asked: how many validation pictures were asked for.
        requests_per_second: of one encoded picture each, by eight clients at once.
        seconds: all of it.
    """

    metrics: dict[str, Any]
    published: Published
    same_labels: int
    asked: int
    requests_per_second: float
    seconds: float


def run_demo(out: Path, options: DemoOptions, reporter: Reporter) -> Outcome:
    """Draw pictures, tune the builtin backbone to them, export, serve and ask.

    Args:
        out: folder that takes the pictures, the run and the model repository.
        options: how large it is.
        reporter: shows progress.

    Raises:
        UnfreezeError: a step failed.
    """
    started = time.monotonic()
    data = out / "pictures"
    write_wallpaper_groups(data, drawing(options), reporter)
    metrics = tune(data, out / "run", tuning(options), reporter, overwrite=True)
    published = export(out / "run", out / "models", MODEL, reporter=reporter)
    asked = [path.read_bytes() for path in sorted((data / "val").rglob("*.*"))]
    with serving(out / "models") as target:
        reporter.say(f"serving on {target}; asking about all {len(asked)} validation pictures")
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
    """Say which pictures the demonstration draws."""
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


def _same_labels(target: str, model: Path, pictures: Sequence[bytes]) -> int:
    with Client(target) as client, LocalClassifier(model) as local:
        served = client.predict(pictures, model=MODEL, top=1)
        inside = local.predict(pictures, top=1)
    return sum(one[0].label == other[0].label for one, other in zip(served, inside, strict=True))


def requests_per_second(target: str, model: str, pictures: Sequence[bytes], seconds: float) -> float:
    """Ask a server for one encoded picture a request, by eight clients at once, each one request after the other.

    Args:
        target: "host:port".
        model: on the server.
        pictures: encoded ones, asked in turn.
        seconds: how long.
    """
    until = time.monotonic() + seconds

    def ask(first: int) -> int:
        answered = 0
        with Client(target) as client:
            while time.monotonic() < until:
                client.predict([pictures[(first + answered) % len(pictures)]], model=model, top=1)
                answered += 1
        return answered

    started = time.monotonic()
    with ThreadPoolExecutor(_CLIENTS) as pool:
        answered = sum(pool.map(ask, range(0, _CLIENTS * 100, 100)))
    return answered / (time.monotonic() - started)
