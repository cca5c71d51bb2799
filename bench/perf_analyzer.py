"""NVIDIA's perf_analyzer, a third-party load generator."""

import csv
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


def drive(
    program: str, target: str, model: str, concurrency: int, interval_ms: int, data: Sequence[str | Path] = ()
) -> dict[str, float]:
    """Run perf_analyzer with one image a request: random pixels, or the given data.

    Args:
        program: path of perf_analyzer.
        target: "host:port".
        model: name on the server.
        concurrency: requests in flight.
        interval_ms: duration of one measurement.
        data: options that select what is sent.

    Returns:
        Images a second, and latency percentiles in milliseconds.

    Raises:
        RuntimeError: perf_analyzer failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.csv"
        command = [program, "-m", model, "-u", target, *data, "-i", "grpc", "-f", out, "--percentile", "99"]
        command += ["--concurrency-range", f"{concurrency}:{concurrency}", "--max-trials", "3"]
        command += ["--measurement-interval", str(interval_ms), "--stability-percentage", "900"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"perf_analyzer exited with code {done.returncode}: {done.stderr or done.stdout}")
        with out.open() as file:
            row = next(csv.DictReader(file))
    return {
        "per_s": float(row["Inferences/Second"]),
        "p50_ms": float(row["p50 latency"]) / 1000,
        "p99_ms": float(row["p99 latency"]) / 1000,
    }
