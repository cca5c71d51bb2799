"""What watching a model in production costs: throughput and p99 of a server with it, relative to one without, in turn.

python -m bench.production
python -m bench.production --rounds 25 --json

Servers with one option each, with all and with none run at the same time and are loaded in turn, in short rounds. Each
ratio is that of neighboring rounds; medians are shown with their quartiles. The load shares the cores with the server.
"""

import asyncio
import json as jsons
import random
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import numpy as np
from rich.table import Table

from bench.images import write_textures
from bench.load import callers, requests_of
from unfreeze.console import REMARKS, RESULTS, TerminalReporter, print_json
from unfreeze.demo.serving import serving
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import export_model
from unfreeze.tune.artifacts.checkpoint import FACTS_FILE
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

_COMMON = "--poll-s", "0", "--threads", "1", "--instances", "1"
_OFF = "off"
_NO_DRIFT, _DRIFT = ("--drift-window", "0"), ("--drift-window", "1000")
_RECORD = "--record-consent", "all", "--record-share", "0.01", "--record"
_SHADOW = "--split", "textures=1:100", "--shadow", "textures=2:10"
_QUARTILES = [0.25, 0.5, 0.75]


def main(
    *,
    rounds: int = 15,
    seconds: float = 4.0,
    in_flight: int = 8,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Measure all variants.

    Args:
        rounds: number of rounds with each server.
        seconds: duration of a round.
        in_flight: callers, each with one image at a time.
        json: print JSON instead of a table.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        repositories = _publish(folder)
        requests = requests_of([file.read_bytes() for file in sorted((folder / "images").rglob("*.jpg"))])
        targets = {
            variant: stack.enter_context(serving(repositories[model], *_COMMON, *options))
            for variant, (model, options) in _variants(folder).items()
        }
        found = _measure(targets, requests, rounds, seconds, in_flight)
    if json:
        print_json(found)
        return
    table = Table("variant", "requests a second, relative", "p99, relative", title=f"{rounds} rounds of {seconds:g} s")
    for variant, ratios in found.items():
        table.add_row(variant, *(_text(ratios[figure]) for figure in ("rate", "p99")))
    RESULTS.print(table)


def _variants(folder: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the model and the options of each server, by its name."""
    return {
        _OFF: ("plain", _NO_DRIFT),
        "off, again: what the measurement itself shows": ("plain", _NO_DRIFT),
        "drift": ("plain", _DRIFT),
        "out-of-distribution score, features": ("watched", _NO_DRIFT),
        "recording": ("plain", (*_NO_DRIFT, *_RECORD, str(folder / "recorded"))),
        "shadow of 10 %": ("plain", (*_NO_DRIFT, *_SHADOW)),
        "all": ("watched", (*_DRIFT, *_RECORD, str(folder / "recorded-by-all"), *_SHADOW)),
    }


def _publish(folder: Path) -> dict[str, Path]:
    """Tune a network, and publish two versions in each of two repositories: without a score, and with features."""
    write_textures(folder / "images", 30)
    options = TuneOptions(backbone="mobilenet_v3_small", weights="builtin", recipe="probe", store_gb=0.0)
    with TerminalReporter() as reporter:
        fine_tune(folder / "images", folder / "watched", options, reporter)
        shutil.copytree(folder / "watched", folder / "plain")
        facts = jsons.loads((folder / "plain" / FACTS_FILE).read_text())
        (folder / "plain" / FACTS_FILE).write_text(jsons.dumps(facts | {"ood": None}))
        for name in ("plain", "watched"):
            for _ in range(2):
                how = ExportOptions(features=name == "watched")
                export_model(folder / name, folder / f"models-{name}", "textures", how, reporter=reporter)
    return {name: folder / f"models-{name}" for name in ("plain", "watched")}


def _measure(
    targets: dict[str, str], requests: Sequence[bytes], rounds: int, seconds: float, in_flight: int
) -> dict[str, dict[str, list[float]]]:
    def load(target: str) -> tuple[float, float]:
        calls = asyncio.run(callers(target, requests, in_flight, seconds))
        failed = [call.status for call in calls if call.status != "OK"]
        if failed:
            raise RuntimeError(f"{len(failed)} of {len(calls)} requests failed, for example with {failed[0]}")
        return len(calls) / seconds, float(np.quantile([call.took_s for call in calls], 0.99))

    for target in targets.values():
        load(target)  # warm up
    ratios: dict[str, Any] = {variant: {"rate": [], "p99": []} for variant in targets if variant != _OFF}
    shuffled = random.Random(0)  # noqa: S311 - no server always follows the same one
    for _ in range(rounds):
        order = shuffled.sample(list(targets), len(targets))
        measured = {variant: load(targets[variant]) for variant in order}
        for variant, own in ratios.items():
            for at, figure in enumerate(("rate", "p99")):
                own[figure].append(measured[variant][at] / measured[_OFF][at])
        REMARKS.print(", ".join(f"{variant} {rate:.1f}/s" for variant, (rate, _) in measured.items()))
    return ratios


def _text(ratios: Sequence[float]) -> str:
    low, middle, high = np.quantile(ratios, _QUARTILES)
    return f"{middle:.3f} (quartiles {low:.3f} and {high:.3f})"


if __name__ == "__main__":
    cyclopts.run(main)
