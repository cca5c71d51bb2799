"""The command `unfreeze bench`."""

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from unfreeze.console import RESULTS, TerminalReporter, print_json
from unfreeze.contract.errors import OptionsError
from unfreeze.contract.model.repository import find_model
from unfreeze.contract.options import check_ranges
from unfreeze.serve.runtimes.base import RuntimeOptions
from unfreeze.serve.runtimes.registry import RuntimeName, runtime_summaries

EXAMPLES = """Examples:

    unfreeze bench models/flowers
    unfreeze bench model.onnx --batch 1,4,16 --threads 1 --json
"""


def bench(
    model: Path,
    *,
    runtime: Annotated[RuntimeName, Parameter(help=f"runtime to measure: {runtime_summaries()}.")] = "cpu",
    batch: str = "1,8,32",
    threads: int = 0,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Measure a model's latency and throughput on this machine, without a server.

    Args:
        model: a `model.onnx`, the folder of a version, or the folder of a model, for its newest version.
        runtime: runtime to measure.
        batch: batch sizes, separated by commas.
        threads: CPU threads per batch; 0 for one per core.
        json: print JSON to standard output instead of a table.
    """
    from unfreeze.contract.model.model_file import read_model
    from unfreeze.serve.runtimes.auto import open_named
    from unfreeze.serve.runtimes.benchmark import time_batches

    sizes = _parse_sizes(batch)
    check_ranges({"threads": threads}, {"threads": (0, 1024)})
    options = RuntimeOptions(threads=threads, max_batch=max(sizes))
    opened = open_named(read_model(find_model(model)), runtime, options)
    with opened.runtime as loaded, TerminalReporter() as reporter:
        advance = reporter.track("batch sizes", len(sizes))
        timings = [time_batches(loaded, size, advance) for size in sizes]
        precision = loaded.manifest.precision
    if json:
        print_json(
            {
                "model": str(model),
                "precision": precision,
                "runtime": opened.name,
                "timings": [dataclasses.asdict(one) for one in timings],
            }
        )
        return
    table = Table(
        "batch", "p50", "p90", "p99", "images/s", "peak memory", title=Text(f"{model} ({precision}) on {opened.name}")
    )
    for one in timings:
        times = (f"{value:.1f} ms" for value in (one.p50_ms, one.p90_ms, one.p99_ms))
        table.add_row(str(one.batch), *times, f"{one.images_per_second:.0f}", f"{one.peak_rss_mb:.0f} MB")
    RESULTS.print(table)


def _parse_sizes(batch: str) -> list[int]:
    try:
        sizes = [int(size) for size in batch.split(",")]
    except ValueError:
        sizes = []
    if not sizes or not all(1 <= size <= 4096 for size in sizes):  # noqa: PLR2004
        raise OptionsError(f"--batch must be whole numbers from 1 to 4,096, separated by commas, got {batch!r}")
    return sizes
