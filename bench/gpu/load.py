"""Load from several processes, with requests that were serialized in advance.

python -m bench.gpu.load TARGET FOLDER

Runs one of these processes. It reads commands from standard input and writes results to standard output, one line of
JSON each.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cyclopts
import grpc
import numpy as np

METHOD = "/inference.GRPCInferenceService/ModelInfer"
_REFUSED_S = 0.01  # pause of a caller after a refusal


@dataclass(frozen=True, kw_only=True)
class Load:
    """The requests that ended during the measurement.

    Args:
        seconds: duration of the measurement.
        latencies_ms: latencies of answered requests.
        failed: number of failed requests by gRPC status.
    """

    seconds: float
    latencies_ms: list[float] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)

    @property
    def per_s(self) -> float:
        """Answered requests a second."""
        return len(self.latencies_ms) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile of the latencies; NaN if nothing was answered."""
        return float(np.percentile(self.latencies_ms, percent)) if self.latencies_ms else float("nan")


class Generators:
    """The load-generator processes; a context manager.

    Args:
        target: "host:port".
        folder: serialized requests, `KIND-NUMBER.bin`.
        processes: number of processes.
    """

    def __init__(self, target: str, folder: Path, processes: int) -> None:
        self._command = [sys.executable, "-m", "bench.gpu.load", target, str(folder)]
        self._count = processes
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._processes = [
            self._stack.enter_context(subprocess.Popen(self._command, **pipes)) for _ in range(self._count)
        ]
        for process in self._processes:
            process.stdout.readline()  # wait until it is ready
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.stdin.close()  # ends the process
        self._stack.close()

    def run(self, kind: str, callers: int, warm_s: float, seconds: float) -> Load:
        """Run callers that each send one request after the other, without a pause.

        Args:
            kind: kind of the requests.
            callers: number of callers over all processes.
            warm_s: warm-up in seconds.
            seconds: duration of the measurement.
        """
        busy = []
        for process, own in zip(self._processes, shares(callers, self._count), strict=True):
            if own:
                order = {"kind": kind, "callers": own, "warm_s": warm_s, "seconds": seconds}
                process.stdin.write(json.dumps(order) + "\n")
                process.stdin.flush()
                busy.append(process)
        return _together([json.loads(process.stdout.readline()) for process in busy], seconds)


def shares(callers: int, processes: int) -> list[int]:
    """Distribute callers over processes as evenly as possible."""
    return [callers // processes + (number < callers % processes) for number in range(processes)]


def _together(parts: Sequence[dict[str, Any]], seconds: float) -> Load:
    failed: Counter[str] = Counter()
    for part in parts:
        failed.update(part["failed"])
    latencies = [one for part in parts for one in part["latencies_ms"]]
    return Load(seconds=seconds, latencies_ms=latencies, failed=dict(failed))


async def _load(target: str, requests: Sequence[bytes], callers: int, warm_s: float, seconds: float) -> Load:
    load, failed, numbers = Load(seconds=seconds), Counter[str](), count()
    async with grpc.aio.insecure_channel(target) as channel:
        infer = channel.unary_unary(METHOD)  # bytes in, bytes out
        begin = time.monotonic() + warm_s
        end = begin + seconds

        async def caller() -> None:
            while (started := time.monotonic()) < end:
                status = ""
                try:
                    await infer(requests[next(numbers) % len(requests)])
                except grpc.aio.AioRpcError as error:
                    status = error.code().name
                    await asyncio.sleep(_REFUSED_S)
                ended = time.monotonic()
                if begin <= ended <= end:
                    if status:
                        failed[status] += 1
                    else:
                        load.latencies_ms.append(round(1000 * (ended - started), 3))

        await asyncio.gather(*(caller() for _ in range(callers)))
    load.failed.update(failed)
    return load


def main(target: str, folder: Path) -> None:
    """Execute the commands from standard input until it is closed.

    Args:
        target: "host:port".
        folder: serialized requests.
    """
    files = {kind: sorted(folder.glob(f"{kind}-*.bin")) for kind in ("pixels", "jpeg")}
    requests = {kind: [file.read_bytes() for file in own] for kind, own in files.items()}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        order = json.loads(line)
        load = asyncio.run(_load(target, requests[order.pop("kind")], **order))
        sys.stdout.write(json.dumps({"latencies_ms": load.latencies_ms, "failed": load.failed}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    cyclopts.run(main)
