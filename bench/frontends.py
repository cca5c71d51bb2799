"""Front-end processes: what they gain, and what a killed process or very large messages do to the server.

python -m bench.frontends speed --perf-analyzer path/to/perf_analyzer
python -m bench.frontends kills --images photographs/
python -m bench.frontends uploads --images photographs/ --frontends 2
"""

import asyncio
import itertools
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import cyclopts
import grpc
import psutil
from rich.table import Table

from bench.endure import frontend_arguments, random_repository, read_requests, report, served
from bench.load import METHOD
from bench.models import publish_linear
from bench.perf_analyzer import drive
from unfreeze.console import REMARKS, RESULTS, print_json
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub

app = cyclopts.App(help=__doc__)


@app.command
def speed(
    *,
    perf_analyzer: str = "perf_analyzer",
    frontends: tuple[int, ...] = (1, 2),
    concurrency: tuple[int, ...] = (1, 8, 32),
    rounds: int = 3,
    interval_ms: int = 3000,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Measure what the server itself costs: a model that takes almost no time, behind front-end processes, in turn.

    Args:
        perf_analyzer: path of NVIDIA's load generator.
        frontends: numbers of front-end processes to compare.
        concurrency: requests in flight, each with one image as pixels.
        rounds: number of measurements of each; medians are shown.
        interval_ms: duration of one measurement.
        json: print JSON instead of a table.
    """
    rows: list[dict[str, float]] = []
    with TemporaryDirectory() as folder:
        repository = publish_linear(Path(folder))
        for number in range(rounds):
            for count in frontends:
                with served(repository, *frontend_arguments(count)) as server:
                    for flying in concurrency:
                        drive(perf_analyzer, server.target, "linear", flying, interval_ms // 3)
                        before, began = _cpu_s(server.processes), time.monotonic()
                        found = drive(perf_analyzer, server.target, "linear", flying, interval_ms)
                        answered = found["per_s"] * (time.monotonic() - began)
                        cpu_ms = 1000 * (_cpu_s(server.processes) - before) / answered
                        rows.append(
                            {"round": number, "frontends": count, "in_flight": flying, "cpu_ms": cpu_ms, **found}
                        )
                        REMARKS.print(rows[-1], markup=False)
    if json:
        print_json(rows)
        return
    table = Table("front ends", "in flight", "requests /s", "CPU ms a request", "p99 ms", title="medians")
    for count in frontends:
        for flying in concurrency:
            found = [row for row in rows if (row["frontends"], row["in_flight"]) == (count, flying)]
            figures = [median(row[what] for row in found) for what in ("per_s", "cpu_ms", "p99_ms")]
            table.add_row(str(count), str(flying), f"{figures[0]:.0f}", f"{figures[1]:.2f}", f"{figures[2]:.1f}")
    RESULTS.print(table)


def _cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


@app.command
def kills(*, images: Path, count: int = 20, frontends: int = 2, callers_each: int = 4) -> None:
    """Kill processes of a server at random under load: only calls of the killed process are lost.

    Every caller has a connection of its own and repeats a call that was lost, as clients do.

    Args:
        images: folder of JPEG files.
        count: number of kills, one of five of the process of the models.
        frontends: number of front-end processes.
        callers_each: callers for each front end.
    """
    requests, rng = read_requests(images), random.Random(0)  # noqa: S311 - it chooses processes
    with random_repository() as repository, served(repository, *frontend_arguments(frontends)) as server:
        before = _shared_memory()
        lost: list[str] = []
        with ThreadPoolExecutor(1) as pool:
            seconds = 2.0 * count + 6
            load = pool.submit(asyncio.run, _persistent(server.target, requests, frontends * callers_each, seconds))
            time.sleep(2)
            for number in range(count):
                # The process of the models has no metrics here, so it has no TCP connection.
                models, *fronts = sorted(server.seen.children(), key=lambda one: bool(one.net_connections("tcp")))
                victim = models if number % 5 == 4 else rng.choice(fronts)  # noqa: PLR2004
                lost.append("models" if victim is models else "frontend")
                victim.kill()
                time.sleep(2)
            answers = load.result()
        leaked = _shared_memory() - before
    facts = {
        "kills": dict(Counter(lost)),
        "answered": sum(len(one.answered) for one in answers),
        "lost_calls": sum(one.lost for one in answers),
        "given_up": sum(one.given_up for one in answers),
        "longest_gap_s": max(one.longest_gap_s for one in answers),
        "leaked_segments": leaked,
    }
    promises = {
        "no caller that repeats gave up": facts["given_up"] == 0,
        "no shared memory is left": leaked == 0,
    }
    report("kills", facts, promises)


@app.command
def uploads(*, images: Path, clients: int = 100, mebibytes: int = 60, frontends: int = 1) -> None:
    """Send very large messages at the same time: the memory of the server stays within its limits.

    Args:
        images: folder of JPEG files, for the answer afterwards.
        clients: number of clients.
        mebibytes: size of a message.
        frontends: number of front-end processes.
    """
    message = pb.PredictRequest(images=[bytes(mebibytes * 2**20)]).SerializeToString()
    limit_mib = 256
    with (
        random_repository() as repository,
        served(repository, "--max-queue-mib", str(limit_mib), *frontend_arguments(frontends)) as server,
    ):
        before, peak, statuses = server.rss_mb, [0.0], Counter[str]()

        def upload(_: int) -> str:
            with grpc.insecure_channel(server.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                try:
                    channel.unary_unary(METHOD)(message, timeout=60)
                except grpc.RpcError as error:
                    return str(error.code().name)
                return "OK"

        with ThreadPoolExecutor(clients) as pool:
            sending = [pool.submit(upload, number) for number in range(clients)]
            while not all(one.done() for one in sending):
                peak[0] = max(peak[0], server.rss_mb)
                time.sleep(0.02)
            statuses.update(one.result() for one in sending)
        with grpc.insecure_channel(server.target) as channel:
            ClassifierStub(channel).Predict(pb.PredictRequest.FromString(read_requests(images)[0]), timeout=10)
    grown_mib = (peak[0] - before) * 1e6 / 2**20
    facts = {
        "clients": clients,
        "message_mib": mebibytes,
        "limit_mib": limit_mib,
        "peak_growth_mib": grown_mib,
        "statuses": dict(statuses),
    }
    # gRPC holds a message once as it arrives and once as bytes, an image is copied to be decoded, and each process
    # keeps some of the memory that it frees.
    promises = {"memory grows by at most five times the limit, for any number of clients": grown_mib < 5 * limit_mib}
    report("uploads", facts, promises)


@dataclass
class _Persistent:
    """What a caller saw that repeats lost calls."""

    answered: list[float]
    lost: int = 0
    given_up: int = 0

    @property
    def longest_gap_s(self) -> float:
        return max(after - before for before, after in itertools.pairwise(self.answered))


async def _persistent(target: str, requests: list[bytes], count: int, seconds: float) -> list[_Persistent]:
    until = time.monotonic() + seconds

    async def call(number: int) -> _Persistent:
        seen = _Persistent([time.monotonic()])
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 500),
        ]
        async with grpc.aio.insecure_channel(target, options) as channel:
            predict = channel.unary_unary(METHOD)
            for turn in itertools.count():
                if time.monotonic() > until:
                    return seen
                for _ in range(100):
                    try:
                        await predict(requests[(number + turn) % len(requests)], timeout=10)
                    except grpc.aio.AioRpcError as error:
                        if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                            REMARKS.print(f"{error.code().name}: {error.details()}", markup=False)
                        seen.lost += 1
                        await asyncio.sleep(0.1)
                    else:
                        seen.answered.append(time.monotonic())
                        break
                else:
                    seen.given_up += 1
        return seen

    return list(await asyncio.gather(*(call(number) for number in range(count))))


def _shared_memory() -> int:
    """Count shared memory objects with a name."""
    return len(list(Path("/dev/shm").iterdir()))  # noqa: S108


if __name__ == "__main__":
    app()
