"""Production conditions for a server: overload, new versions, shutdowns, crashes, and sustained load.

python -m bench.endure overload|swaps|shutdowns|crash|soak --images photographs/ --frontends 2

Each command starts a real server of mobilenet_v3_small with random weights in its own process, prints its
measurements, and exits with 1 if a promise was broken.
"""

import asyncio
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

import cyclopts
import grpc
import psutil

from bench.load import Call, at_a_rate, callers, percentile_ms, requests_of
from bench.models import publish_random
from unfreeze.console import REMARKS, print_json
from unfreeze.contract.cores import usable_cores
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub

app = cyclopts.App(help=__doc__)
_MODEL = "random"
_DRAINED = re.compile(r"drained: requests answered: (\d+), rejected: (\d+)")
_READY_S, _IDLE_MB, _WARM_S = 2, 200, 10


class ServedProcess:
    """A server's process and address."""

    def __init__(self, process: "subprocess.Popen[str]", target: str) -> None:
        self.process, self.target = process, target
        self.seen = psutil.Process(process.pid)

    @property
    def rss_mb(self) -> float:
        """Resident memory of all processes."""
        return sum(process.memory_info().rss for process in self.processes) / 1e6

    @property
    def processes(self) -> list[psutil.Process]:
        """The server's processes: one, or with front ends the parent, that of the models, and theirs."""
        return [self.seen, *self.seen.children()]


@contextmanager
def served(repository: Path, *arguments: str, port: int = 0, log: IO[str] | None = None) -> Iterator[ServedProcess]:
    """Run a server until the body ends."""
    command = [sys.executable, "-m", "unfreeze.command", "serve", "--repository", repository, "--port", str(port)]
    command += ["--no-metrics"]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=log, text=True) as process:
        line = process.stdout.readline() if process.stdout else ""
        try:
            yield ServedProcess(process, line.split()[-1])
        finally:
            process.send_signal(signal.SIGTERM)


def frontend_arguments(frontends: int) -> tuple[str, ...]:
    """Return the arguments for a number of front-end processes."""
    return ("--frontends", str(frontends))


@contextmanager
def random_repository() -> Iterator[Path]:
    """Publish mobilenet_v3_small with random weights."""
    with tempfile.TemporaryDirectory() as folder:
        yield publish_random("mobilenet_v3_small", Path(folder), _MODEL)


def read_requests(images: Path, each: int = 1) -> list[bytes]:
    """Serialize requests of the JPEG files of a folder."""
    return requests_of([file.read_bytes() for file in sorted(images.rglob("*.jpg"))], each)


def _best(target: str, requests: list[bytes], seconds: float = 6) -> float:
    """Measure peak throughput, with enough callers to keep the server busy."""
    asyncio.run(callers(target, requests, 8, 2))
    calls = asyncio.run(callers(target, requests, 8, seconds))
    return _goodput(calls, seconds)


def _goodput(calls: list[Call], seconds: float) -> float:
    return len([call for call in calls if call.status == "OK"]) / seconds


class _Cores:
    """The number of cores that this process, the load generator, used while the body ran."""

    def __enter__(self) -> Self:
        self._began = time.monotonic(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall_s, cpu_s = time.monotonic() - self._began[0], time.process_time() - self._began[1]
        self.taken = cpu_s / wall_s

    @property
    def left(self) -> float:
        return usable_cores() - self.taken


def report(what: str, facts: dict[str, Any], promises: dict[str, bool]) -> None:
    """Print what was measured; exit with 1 if a promise was broken."""
    print_json({"what": what, **facts, "promises": promises})
    broken = [promise for promise, kept in promises.items() if not kept]
    if broken:
        REMARKS.print(f"broken: {', '.join(broken)}", markup=False)
        sys.exit(1)


@app.command
def overload(
    *, images: Path, seconds: float = 60, times: float = 5, timeout_s: float = 1.0, each: int = 16, frontends: int = 1
) -> None:
    """Overload the server: it answers accepted requests in time and rejects the others immediately.

    The load generator shares the cores with the server and uses more of them at higher rates, so goodput is corrected
    for the cores that it left to the server. With many images per request, the generator uses the fewest.

    Args:
        images: folder of JPEG files.
        seconds: duration.
        times: load as a multiple of the peak throughput.
        timeout_s: deadline of every request.
        each: images a request.
        frontends: number of front-end processes.
    """
    requests = read_requests(images, each)
    with (
        random_repository() as repository,
        served(repository, "--max-queue", "128", *frontend_arguments(frontends)) as server,
    ):
        with _Cores() as at_best:
            best = _best(server.target, requests)
        asyncio.run(at_a_rate(server.target, requests, times * best, _WARM_S, timeout=timeout_s))
        before = server.rss_mb
        with _Cores() as overloaded:
            calls = asyncio.run(at_a_rate(server.target, requests, times * best, seconds, timeout=timeout_s))
        after = server.rss_mb
    good = [call for call in calls if call.status == "OK"]
    refused = [call for call in calls if call.status != "OK" and call.took_s < timeout_s / 2]
    goodput = _goodput(calls, seconds)
    share_of_peak = goodput / best * at_best.left / overloaded.left
    facts = {
        "peak_per_s": best,
        "sent_per_s": len(calls) / seconds,
        "answered_per_s": goodput,
        "generator_cores": [at_best.taken, overloaded.taken],
        "goodput_share_of_peak": share_of_peak,
        "statuses": dict(Counter(call.status for call in calls)),
        "answered_p50_ms": percentile_ms(good, 50),
        "answered_p99_ms": percentile_ms(good, 99),
        "refused_p50_ms": percentile_ms(refused, 50),
        "refused_p99_ms": percentile_ms(refused, 99),
        "rss_mb": [before, after],
    }
    promises = {
        "goodput is above 90 % of the peak": share_of_peak > 0.9,  # noqa: PLR2004
        "refused within 50 ms": percentile_ms(refused, 99) < 50,  # noqa: PLR2004
        "accepted requests meet their deadline": len(good) + len(refused) >= 0.99 * len(calls),
        "memory is flat": after < 1.1 * before,
    }
    report("overload", facts, promises)


@app.command
def swaps(*, images: Path, count: int = 100, load: float = 0.5, frontends: int = 1) -> None:
    """Publish new versions under load: no request fails, and latency hardly rises.

    Args:
        images: folder of JPEG files.
        count: number of versions.
        load: share of the peak throughput.
        frontends: number of front-end processes.
    """
    requests = read_requests(images)
    with (
        random_repository() as repository,
        served(repository, "--poll-s", "0.05", *frontend_arguments(frontends)) as server,
    ):
        best = _best(server.target, requests)
        seconds = 10 + 0.5 * count

        def publish() -> None:
            time.sleep(10)
            for version in range(2, count + 2):
                staged = repository / ".staging"
                shutil.copytree(repository / _MODEL / "1", staged)
                staged.rename(repository / _MODEL / str(version))
                time.sleep(0.5)

        with ThreadPoolExecutor(1) as pool:
            publishing = pool.submit(publish)
            calls = asyncio.run(at_a_rate(server.target, requests, load * best, seconds, timeout=5))
            publishing.result()
    normal = [call for call in calls if 1 < call.began < 10]  # noqa: PLR2004
    during = [call for call in calls if call.began >= 10]  # noqa: PLR2004
    facts = {
        "peak_per_s": best,
        "requests": len(calls),
        "statuses": dict(Counter(call.status for call in calls)),
        "versions": len({call.version for call in calls if call.version}),
        "normal_p99_ms": percentile_ms(normal, 99),
        "during_p99_ms": percentile_ms(during, 99),
    }
    promises = {
        "no request failed": all(call.status == "OK" for call in calls),
        "p99 at most doubles": percentile_ms(during, 99) <= 2 * percentile_ms(normal, 99),
    }
    report("swaps", facts, promises)


@app.command
def shutdowns(*, images: Path, count: int = 20, frontends: int = 1) -> None:
    """Send SIGTERM under load: every accepted request is answered, and the exit code is 0.

    gRPC itself cancels a call that arrives while it stops; the server never sees it.

    Args:
        images: folder of JPEG files.
        count: number of repetitions.
        frontends: number of front-end processes.
    """
    requests = read_requests(images)
    statuses: Counter[str] = Counter()
    codes: Counter[int] = Counter()
    reported = Counter({"answered": 0, "refused": 0})
    with random_repository() as repository:
        for number in range(count):
            with (
                tempfile.TemporaryFile("w+") as log,
                served(repository, *frontend_arguments(frontends), log=log) as server,
            ):
                with ThreadPoolExecutor(1) as pool:
                    load = pool.submit(asyncio.run, callers(server.target, requests, 8, 2.5))
                    time.sleep(1 + number % 5 / 10)
                    server.process.send_signal(signal.SIGTERM)
                    codes[server.process.wait(60)] += 1
                    statuses.update(call.status for call in load.result())
                log.seek(0)
                found = _DRAINED.search(" ".join(log.read().split()))
                reported.update(
                    dict(zip(("answered", "refused"), map(int, found.groups()) if found else (0, 1), strict=True))
                )
    facts = {
        "statuses": dict(statuses),
        "reported_by_the_server": dict(reported),
        "exit_codes": {str(code): times for code, times in codes.items()},
    }
    promises = {
        "accepted requests are answered": reported["answered"] == statuses["OK"],
        "the exit code is 0": set(codes) == {0},
    }
    report("shutdowns", facts, promises)


@app.command
def crash(*, images: Path, count: int = 5) -> None:
    """Kill the server with SIGKILL and restart it: time to the first answer, and idle memory.

    Args:
        images: folder of JPEG files.
        count: number of repetitions.
    """
    request = pb.PredictRequest.FromString(read_requests(images)[0])
    ready: list[float] = []
    rss: list[float] = []
    with random_repository() as repository:
        port = 0
        for _ in range(count):
            started = time.monotonic()
            with served(repository, port=port) as server:
                with grpc.insecure_channel(server.target) as channel:
                    ClassifierStub(channel).Predict(request, wait_for_ready=True)
                    ready.append(time.monotonic() - started)
                rss.append(server.rss_mb)
                port = int(server.target.rpartition(":")[2])
                server.process.kill()
                server.process.wait()
    report(
        "crash",
        {"ready_s": ready, "rss_mb": rss},
        {"answers within 2 s": max(ready) < _READY_S, "below 200 MB": max(rss) < _IDLE_MB},
    )


@app.command
def soak(*, images: Path, minutes: float = 10, load: float = 0.8, frontends: int = 1) -> None:
    """Run at high load for a long time: memory, file descriptors and threads do not grow.

    Args:
        images: folder of JPEG files.
        minutes: duration, after a tenth of it as warm-up.
        load: share of the peak throughput.
        frontends: number of front-end processes.
    """
    requests = read_requests(images)
    with random_repository() as repository, served(repository, *frontend_arguments(frontends)) as server:
        best = _best(server.target, requests)
        statuses: Counter[str] = Counter()
        samples: list[dict[str, float]] = []
        slices = 11
        for _ in range(slices):
            calls = asyncio.run(
                at_a_rate(server.target, requests, load * best, 60 * minutes / (slices - 1), timeout=10)
            )
            statuses.update(call.status for call in calls)
            samples.append(
                {
                    "rss_mb": server.rss_mb,
                    "descriptors": sum(process.num_fds() for process in server.processes),
                    "threads": sum(process.num_threads() for process in server.processes),
                    "p99_ms": percentile_ms(calls, 99),
                }
            )
            REMARKS.print(samples[-1])
    first, last = samples[0], samples[-1]
    promises = {
        "memory grows by less than 1 %": last["rss_mb"] < 1.01 * first["rss_mb"],
        "no more descriptors": last["descriptors"] <= first["descriptors"],
        "no more threads": last["threads"] <= first["threads"],
        "no request failed": set(statuses) == {"OK"},
    }
    report(
        "soak", {"peak_per_s": best, "cores": usable_cores(), "statuses": dict(statuses), "samples": samples}, promises
    )


if __name__ == "__main__":
    app()
