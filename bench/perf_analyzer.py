"""NVIDIA's perf_analyzer: what a server answers, by a load generator that is not ours."""

import csv
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


def drive(
    program: str, target: str, model: str, concurrency: int, interval_ms: int, data: Sequence[str | Path] = ()
) -> dict[str, float]:
    """Let it send one image a request: prepared pixels of its own, or what it is given.

    Args:
        program: perf_analyzer itself.
        target: "host:port".
        model: on the server.
        concurrency: requests in flight.
        interval_ms: of one of its measurements.
        data: options that say what is sent.

    Returns:
        Images a second, and percentiles of their latencies in milliseconds.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.csv"
        command = [program, "-m", model, "-u", target, *data, "-i", "grpc", "-f", out, "--percentile", "99"]
        command += ["--concurrency-range", f"{concurrency}:{concurrency}", "--max-trials", "3"]
        command += ["--measurement-interval", str(interval_ms), "--stability-percentage", "900"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"perf_analyzer ended with {done.returncode}: {done.stderr or done.stdout}")
        with out.open() as file:
            row = next(csv.DictReader(file))
    return {
        "per_s": float(row["Inferences/Second"]),
        "p50_ms": float(row["p50 latency"]) / 1000,
        "p99_ms": float(row["p99 latency"]) / 1000,
    }
