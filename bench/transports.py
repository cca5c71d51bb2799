"""Prepared pixels over TCP and over a Unix socket, in the message and in shared memory, under NVIDIA's perf_analyzer.

python -m bench.transports --perf-analyzer path/to/perf_analyzer

One server listens on both, of a model of 224 px that computes next to nothing: an image has 150,528 bytes, and its time
is the server's. The ways are measured in turn, for several rounds. perf_analyzer writes its input into shared memory
once, before it begins, and shares the cores with the server, whose CPU time an image is the figure that other programs
disturb least.
"""

import json as jsons
import tempfile
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import cyclopts
import grpc
import psutil
from rich.table import Table

from bench.hostile.messages import MODEL
from bench.hostile.model import publish_colors
from bench.perf_analyzer import drive
from unfreeze.console import REMARKS, RESULTS, print_json
from unfreeze.contract.cores import usable_cores
from unfreeze.demo.serving import serving
from unfreeze.protos import open_inference_pb2 as pb
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub

_IMAGE_SIZE = 224
_MEMORIES = {"none": "", "system": ", shared memory"}  # values of perf_analyzer's --shared-memory


def main(
    *,
    perf_analyzer: str = "perf_analyzer",
    repository: Path | None = None,
    model: str = MODEL,
    concurrency: tuple[int, ...] = (1, 8),
    batch: int = 1,
    rounds: int = 5,
    interval_ms: int = 2000,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Measure each way in turn, and compare.

    Args:
        perf_analyzer: path of the program.
        repository: model repository; by default one with the model described above.
        model: name of a model in it.
        concurrency: requests in flight.
        batch: images in a request.
        rounds: number of measurements of each; medians are shown.
        interval_ms: duration of one measurement.
        json: print JSON instead of a table.
    """
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="uds") as folder:
        path = f"{folder}/grpc.sock"
        repository = repository or publish_colors(Path(folder) / "models", _IMAGE_SIZE)
        with serving(repository, "--poll-s", "0", "--uds", path, "--shared-memory", "/") as port:
            server = _Server(port, model)
            ways = [(target, memory) for target in (port, f"unix://{path}") for memory in _MEMORIES]
            for number in range(rounds):
                for target, memory in ways if number % 2 else ways[::-1]:
                    for count in concurrency:
                        options = ["-b", str(batch), "--shared-memory", memory]
                        found = server.measure(perf_analyzer, target, model, count, interval_ms, options)
                        way = f"{'Unix socket' if target.startswith('unix') else 'TCP'}{_MEMORIES[memory]}"
                        rows.append({"round": number, "way": way, "concurrency": count, **found})
                        REMARKS.print(jsons.dumps(rows[-1]), markup=False)
    if json:
        print_json(rows)
    else:
        RESULTS.print(_table(rows, concurrency))


class _Server:
    """The process of a server, the only child of this one."""

    def __init__(self, target: str, model: str) -> None:
        self._target, self._model = target, model
        (self._process,) = psutil.Process().children()

    def measure(self, *arguments: Any) -> dict[str, float]:
        """Run the load generator; return its figures and the server's CPU time for an image."""
        images, cpu_s = self._images(), self._cpu_s()
        try:
            found = drive(*arguments)
        except RuntimeError as error:
            raise SystemExit(str(error)) from None
        return {**found, "cpu_ms": 1000 * (self._cpu_s() - cpu_s) / (self._images() - images)}

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def _images(self) -> int:
        with grpc.insecure_channel(self._target) as channel:
            request = pb.ModelStatisticsRequest(name=self._model)
            return int(GRPCInferenceServiceStub(channel).ModelStatistics(request).model_stats[0].inference_count)


def _table(rows: list[dict[str, Any]], concurrency: tuple[int, ...]) -> Table:
    def values(way: str, count: int, what: str) -> list[float]:
        return [row[what] for row in rows if (row["way"], row["concurrency"]) == (way, count)]

    def ratio(way: str, count: int, what: str) -> float:
        pairs = zip(values(way, count, what), values("TCP", count, what), strict=True)
        return median(one / other for one, other in pairs)

    title = f"perf_analyzer, {usable_cores()} cores; medians, ratios to TCP in the same round"
    table = Table("way", "in flight", "images /s", "ratio", "p50 ms", "p99 ms", "server's CPU ms", "ratio", title=title)
    for count in concurrency:
        for way in sorted({row["way"] for row in rows}):
            per_s, p50, p99, cpu = (
                median(values(way, count, what)) for what in ("per_s", "p50_ms", "p99_ms", "cpu_ms")
            )
            figures = f"{per_s:.0f}", f"{ratio(way, count, 'per_s'):.2f}", f"{p50:.2f}", f"{p99:.2f}"
            table.add_row(way, str(count), *figures, f"{cpu:.3f}", f"{ratio(way, count, 'cpu_ms'):.2f}")
    return table


if __name__ == "__main__":
    cyclopts.run(main)
