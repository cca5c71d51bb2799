"""Durations of two comparisons of the same backbones, the second of which reuses what the first one stored.

python -m bench.compare DATA --backbones squeezenet1_0=FILE,timm/tf_efficientnet_lite0=FILE,mobilenet_v3_small=builtin
"""

import json as jsons
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from rich.table import Table

from unfreeze.console import RESULTS, print_json

_KINDS = ("first", "second")


def main(data: Path, *, backbones: str, json: Annotated[bool, cyclopts.Parameter(negative="")] = False) -> None:
    """Run two whole processes, the first with an empty cache folder.

    Args:
        data: folder of labeled images.
        backbones: as for `unfreeze compare`.
        json: print JSON instead of a table.
    """
    with tempfile.TemporaryDirectory() as folder:
        runs = [_compare(data, backbones, Path(folder)) for _ in _KINDS]
    if runs[0]["rows"] != runs[1]["rows"]:
        raise SystemExit("the second comparison differs from the first")
    seconds = {kind: run["process_seconds"] for kind, run in zip(_KINDS, runs, strict=True)}
    ratios = {kind: seconds["first"] / one for kind, one in seconds.items()}
    if json:
        print_json({"seconds": seconds, "times_faster": ratios, "reason": runs[0]["reason"]})
        return
    table = Table("comparison", "seconds", "times faster", title=f"unfreeze compare {data.name}")
    for kind in _KINDS:
        table.add_row(kind, f"{seconds[kind]:.1f}", f"{ratios[kind]:.1f}")
    RESULTS.print(table)
    RESULTS.print(runs[0]["reason"], markup=False)


def _compare(data: Path, backbones: str, folder: Path) -> dict[str, Any]:
    """Compare in a process of its own; return the result with the seconds of the process."""
    command = [sys.executable, "-m", "unfreeze.command", "compare", str(data), "--backbones", backbones, "--json"]
    command += ["--out", str(folder / "out")]
    environment = os.environ | {"UNFREEZE_CACHE_DIR": str(folder / "cache")}
    started = time.monotonic()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    result: dict[str, Any] = jsons.loads(done.stdout)
    return result | {"process_seconds": time.monotonic() - started}


if __name__ == "__main__":
    cyclopts.run(main)
