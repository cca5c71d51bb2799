"""Time saved by the feature store, and what filling it costs.

python -m bench.store DATA --backbone squeezenet1_0 --weights squeezenet1_0.pth

Whole processes in turn: without a store (`--store-gb 0`), with an empty one, and with the one that the run before has
filled. The stages of a run begin with the progress bars that a terminal shows.
"""

import json as jsons
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import cyclopts
from rich.table import Table

from unfreeze.console import REMARKS, RESULTS, print_json

_KINDS = ("none", "cold", "warm")
_WHOLE = "whole process"


def main(
    data: Path,
    *,
    backbone: str = "squeezenet1_0",
    weights: str = "none",
    rounds: int = 3,
    recipe: str = "auto",
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Tune without a store, with an empty one and with a full one.

    Args:
        data: folder of labeled images.
        backbone: torchvision's name of the network.
        weights: pretrained weights, as for `unfreeze tune`.
        rounds: number of runs of each.
        recipe: as for `unfreeze tune`.
        json: print JSON instead of a table.
    """
    options = {"backbone": backbone, "weights": weights, "recipe": recipe}
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _KINDS}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for kind in _KINDS:
                store_gb = 0.0 if kind == "none" else 10.0
                runs[kind].append(_run(data, Path(folder), options | {"store_gb": store_gb}))
                REMARKS.print(f"{kind}: {jsons.dumps(runs[kind][-1])}", markup=False)
    if len({jsons.dumps(run["result"]) for kind in _KINDS for run in runs[kind]}) > 1:
        raise SystemExit("the results differ")
    rows = list(_rows(runs))
    if json:
        print_json(rows)
        return
    table = Table("stage", *_KINDS, "warm / none", "cold / none", title=f"{backbone} on {data.name}, seconds, medians")
    for row in rows:
        numbers = (row.get(name) for name in (*_KINDS, "warm_share", "cold_share"))
        table.add_row(row["stage"], *("" if number is None else f"{number:.2f}" for number in numbers))
    RESULTS.print(table)


def _rows(runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    rows = []
    for stage in runs["none"][0]["seconds"]:
        seconds = {kind: [run["seconds"].get(stage, 0.0) for run in runs[kind]] for kind in _KINDS}
        row: dict[str, Any] = {"stage": stage} | {kind: median(values) for kind, values in seconds.items()}
        for kind in ("warm", "cold"):
            pairs = zip(seconds[kind], seconds["none"], strict=True)
            row[f"{kind}_share"] = median(one / max(other, 1e-3) for one, other in pairs)
        rows.append(row)
    return rows


def _run(data: Path, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Tune in a process of its own; return its result, and the seconds of the process and of its stages."""
    found = folder / "found.json"
    process = multiprocessing.get_context("spawn").Process(target=_tune, args=(data, folder, options, found))
    started = time.monotonic()
    process.start()
    process.join()
    seconds = time.monotonic() - started
    result: dict[str, Any] = jsons.loads(found.read_text())
    return result | {"seconds": {_WHOLE: seconds} | result["seconds"]}


def _tune(data: Path, folder: Path, options: dict[str, Any], found: Path) -> None:
    os.environ["UNFREEZE_CACHE_DIR"] = str(folder / "cache")
    from unfreeze.tune.device.heap import keep_freed_memory
    from unfreeze.tune.options import TuneOptions
    from unfreeze.tune.run import fine_tune

    keep_freed_memory()
    stages = _Stages()
    metrics = fine_tune(data, folder / "run", TuneOptions(**options), stages, overwrite=True)
    stages.end()
    result = {name: metrics[name] for name in ("val_accuracy", "recipe", "cut", "temperature")}
    found.write_text(jsons.dumps({"result": result, "seconds": stages.seconds}))


class _Stages:
    """A reporter that measures the time from one progress bar to the next."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage, self._since = "reading the data and loading the weights", time.monotonic()

    def info(self, text: str) -> None:
        """Ignore a message."""

    def track(self, what: str, total: int) -> Callable[[int], None]:  # noqa: ARG002 - only the beginning counts
        """Begin a stage."""
        self.end()
        self._stage = what
        return lambda _: None

    def end(self) -> None:
        """End the current stage."""
        now = time.monotonic()
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._since = now


if __name__ == "__main__":
    cyclopts.run(main)
