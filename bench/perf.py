"""NVIDIA's load generator against our server: both forms of a model, by concurrency.

python -m bench.perf models/ insects --pictures photographs/ --perf-analyzer path/to/perf_analyzer

perf_analyzer comes with NVIDIA's tritonclient wheels for Linux.
"""

import base64
import csv
import json
import struct
import subprocess
import tempfile
from pathlib import Path

import cyclopts
from rich.table import Table

from contract.repository import ENCODED_SUFFIX
from unfreeze.console import RESULTS
from unfreeze.demo.run import serving

_COLUMNS = {"Concurrency": "concurrency", "Inferences/Second": "pictures per s", "p50 latency": "p50 (ms)"}
_COLUMNS |= {"p99 latency": "p99 (ms)"}


def main(
    repository: Path,
    model: str,
    *,
    pictures: Path,
    perf_analyzer: str = "perf_analyzer",
    concurrency: tuple[int, ...] = (1, 8),
    interval_ms: int = 4000,
) -> None:
    """Drive a server of the repository with perf_analyzer, which shares this machine's cores with it.

    Args:
        repository: folder of models.
        model: in there.
        pictures: folder whose JPEG files are sent to the encoded form.
        perf_analyzer: NVIDIA's program.
        concurrency: requests in flight.
        interval_ms: of one measurement.
    """
    table = Table("model", *_COLUMNS.values(), title="perf_analyzer, gRPC")
    with tempfile.TemporaryDirectory() as folder, serving(repository) as target:
        load = Path(folder) / "load.json"
        load.write_text(json.dumps(_load(pictures)))
        for name, extra in ((model, []), (model + ENCODED_SUFFIX, ["--input-data", load])):
            for count in concurrency:
                row = _measure(perf_analyzer, name, target, count, interval_ms, Path(folder) / "out.csv", extra)
                table.add_row(name, *row)
    RESULTS.print(table)


def _load(pictures: Path) -> dict:
    files = sorted(path for path in pictures.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    return {"data": [{"image": {"b64": _element(file.read_bytes())}} for file in files]}


def _element(data: bytes) -> str:
    """perf_analyzer wants BYTES elements as they go over the wire: their length, then the bytes."""
    return base64.b64encode(struct.pack("<I", len(data)) + data).decode()


def _measure(
    program: str, model: str, target: str, concurrency: int, interval_ms: int, out: Path, extra: list
) -> list[str]:
    command = [program, "-m", model, "-u", target, "-i", "grpc", "--concurrency-range", f"{concurrency}:{concurrency}"]
    command += ["--measurement-interval", str(interval_ms), "-f", out, "--percentile", "99", *extra]
    subprocess.run(command, check=True, capture_output=True)
    with out.open() as file:
        row = next(csv.DictReader(file))
    return [
        f"{float(row[name]) / 1000:.1f}" if name.endswith("latency") else f"{float(row[name]):.0f}" for name in _COLUMNS
    ]


if __name__ == "__main__":
    cyclopts.run(main)
