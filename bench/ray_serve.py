"""What Ray Serve adds to a request: requests a second and latency of one replica, and of `unfreeze serve`.

python -m bench.ray_serve
python -m bench.ray_serve --backbone squeezenet1_1 --rounds 5

Both run the same model (mobilenet_v3_small with random weights, JPEG files of 224 pixels) in one instance with one
thread, one after the other, in turn for several rounds. `ray optimized` sets RAY_SERVE_THROUGHPUT_OPTIMIZED=1. The load
generator shares the cores with them, and CPU time is that of all processes of the serving side.
"""

import asyncio
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import cyclopts
import psutil
from rich.table import Table

from bench.images import write_textures
from bench.load import callers, percentile_ms, requests_of
from bench.models import publish_random
from unfreeze.console import REMARKS, RESULTS, print_json
from unfreeze.contract.cores import usable_cores
from unfreeze.demo.serving import serving

_OPTIMIZED = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
_ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
_SIDES: dict[str, dict[str, str]] = {"server": {}, "ray": {}, "ray optimized": _OPTIMIZED}
_WARM_S = 2.0


def main(
    *,
    backbone: str = "mobilenet_v3_small",
    concurrency: tuple[int, ...] = (1, 8, 32),
    rounds: int = 3,
    seconds: float = 5.0,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Measure each side.

    Args:
        backbone: torchvision's name of the network.
        concurrency: requests in flight.
        rounds: number of measurements of each; medians are shown.
        seconds: duration of one measurement.
        json: print JSON instead of a table.
    """
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        repository = publish_random(backbone, Path(folder))
        write_textures(Path(folder) / "images", 4)
        requests = requests_of([file.read_bytes() for file in sorted((Path(folder) / "images").rglob("*.jpg"))])
        for number in range(rounds):
            for side, environment in _SIDES.items():
                with _server(repository) if side == "server" else _ray(repository, environment) as target:
                    asyncio.run(callers(target, requests, 4, _WARM_S))
                    for count in concurrency:
                        row = {"round": number, "side": side, "concurrency": count}
                        rows.append(row | _measure(target, requests, count, seconds))
                        REMARKS.print(str(rows[-1]), markup=False)
    if json:
        print_json(rows)
    else:
        RESULTS.print(_table(rows, concurrency))


def _server(repository: Path) -> Any:
    return serving(repository, "--poll-s", "0", "--threads", "1", "--instances", "1")


@contextmanager
def _ray(repository: Path, environment: dict[str, str]) -> Iterator[str]:
    """Serve with Ray in a process of its own, because Ray reads its settings from the environment when imported."""
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT | environment)
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve_with_ray, args=(repository, theirs))
    process.start()
    os.environ.clear()
    os.environ.update(before)
    try:
        yield f"127.0.0.1:{ours.recv()}"
    finally:
        ours.send("stop")
        process.join()


def _serve_with_ray(repository: Path, connection: Connection) -> None:
    import ray
    from ray import serve

    from unfreeze import ray_serve

    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        ray.init(include_dashboard=False, log_to_driver=False, _temp_dir=folder)
        port, http_port = _free_port(), _free_port()
        serve.start(grpc_options=ray_serve.grpc_options(port), http_options={"port": http_port})
        fixed = ray_serve.Scaling(min_replicas=1, max_replicas=1, max_ongoing_requests=64, num_cpus=usable_cores())
        serve.run(ray_serve.application(repository, scaling=fixed, poll_s=0, instances=1, threads=1))
        connection.send(port)
        connection.recv()
        ray.shutdown()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _measure(target: str, requests: list[bytes], count: int, seconds: float) -> dict[str, Any]:
    before, started = _children_s(), time.monotonic()
    calls = asyncio.run(callers(target, requests, count, seconds))
    took, used = time.monotonic() - started, _children_s() - before
    good = [call for call in calls if call.status == "OK"]
    return {
        "per_s": len(good) / took,
        "failed": len(calls) - len(good),
        "p50_ms": percentile_ms(good, 50),
        "p99_ms": percentile_ms(good, 99),
        "cpu_ms": 1000 * used / max(1, len(good)),
    }


def _children_s() -> float:
    """Return the CPU time of all processes that this one has started."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def _table(rows: list[dict[str, Any]], concurrency: tuple[int, ...]) -> Table:
    def typical(side: str, count: int, what: str) -> float:
        return median(row[what] for row in rows if (row["side"], row["concurrency"]) == (side, count))

    table = Table("in flight", "side", "requests/s", "relative", "p50 ms", "p99 ms", "CPU ms a request", "failed")
    for count in concurrency:
        for side in _SIDES:
            relative = typical(side, count, "per_s") / typical("server", count, "per_s")
            failed = sum(row["failed"] for row in rows if (row["side"], row["concurrency"]) == (side, count))
            figures = (typical(side, count, what) for what in ("p50_ms", "p99_ms", "cpu_ms"))
            rate = f"{typical(side, count, 'per_s'):.0f}"
            table.add_row(str(count), side, rate, f"{relative:.2f}", *(f"{one:.1f}" for one in figures), str(failed))
    return table


if __name__ == "__main__":
    cyclopts.run(main)
