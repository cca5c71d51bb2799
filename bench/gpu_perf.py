"""NVIDIA's perf_analyzer, where it is installed, as a second witness of what a server answers."""

import csv
import shutil
import subprocess
import tempfile
from pathlib import Path

_LEAST_MS = 500


def perf_analyzer() -> str | None:
    """Find the program."""
    return shutil.which("perf_analyzer")


def drive(program: str, target: str, model: str, concurrency: int, seconds: float) -> dict[str, float]:
    """Let it send prepared pixels, one picture a request.

    Args:
        program: perf_analyzer itself.
        target: "host:port".
        model: on the server.
        concurrency: requests in flight.
        seconds: of one of its measurements.

    Returns:
        Pictures a second, and percentiles of their latencies in milliseconds.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.csv"
        command = [program, "-m", model, "-u", target, "-i", "grpc", "-f", str(out), "--percentile", "99"]
        command += ["--concurrency-range", f"{concurrency}:{concurrency}", "--max-trials", "3"]
        command += ["--measurement-interval", str(max(_LEAST_MS, round(1000 * seconds)))]
        done = subprocess.run([*command, "--stability-percentage", "900"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"perf_analyzer ended with {done.returncode}: {done.stderr or done.stdout}")
        with out.open() as file:
            row = next(csv.DictReader(file))
    return {
        "per_s": float(row["Inferences/Second"]),
        "p50_ms": float(row["p50 latency"]) / 1000,
        "p99_ms": float(row["p99 latency"]) / 1000,
    }
