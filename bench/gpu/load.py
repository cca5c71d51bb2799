"""Load from several processes, each of which asks a server over gRPC with requests that were serialized before.

python -m bench.gpu.load TARGET FOLDER

is one of those processes. It reads an order a line, as JSON, from standard input, and answers with a line of JSON.
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
_REFUSED_S = 0.01  # a caller that was refused waits so long


@dataclass(frozen=True, kw_only=True)
class Load:
    """What became of the requests that ended while it was measured.

    Args:
        seconds: for so long.
        latencies_ms: of those that were answered.
        failed: how many were not, by gRPC's status.
    """

    seconds: float
    latencies_ms: list[float] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)

    @property
    def per_s(self) -> float:
        """How many were answered a second."""
        return len(self.latencies_ms) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """Give a percentile of the latencies; NaN where nothing was answered."""
        return float(np.percentile(self.latencies_ms, percent)) if self.latencies_ms else float("nan")


class Generators:
    """The processes; a context manager.

    Args:
        target: "host:port".
        folder: holds the requests, `KIND-NUMBER.bin`, as they go over the wire.
        processes: how many.
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
            process.stdout.readline()  # it is ready
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.stdin.close()  # which ends it
        self._stack.close()

    def ask(self, kind: str, callers: int, warm_s: float, seconds: float) -> Load:
        """Let callers ask one request after the other, each without a pause.

        Args:
            kind: of the requests.
            callers: in all.
            warm_s: how long nothing is measured first.
            seconds: how long it is measured then.
        """
        asked = []
        for process, own in zip(self._processes, shares(callers, self._count), strict=True):
            if own:
                order = {"kind": kind, "callers": own, "warm_s": warm_s, "seconds": seconds}
                process.stdin.write(json.dumps(order) + "\n")
                process.stdin.flush()
                asked.append(process)
        return _together([json.loads(process.stdout.readline()) for process in asked], seconds)


def shares(callers: int, processes: int) -> list[int]:
    """Share callers out to processes, as evenly as can be."""
    return [callers // processes + (number < callers % processes) for number in range(processes)]


def _together(parts: Sequence[dict[str, Any]], seconds: float) -> Load:
    failed: Counter[str] = Counter()
    for part in parts:
        failed.update(part["failed"])
    latencies = [one for part in parts for one in part["latencies_ms"]]
    return Load(seconds=seconds, latencies_ms=latencies, failed=dict(failed))


async def _ask(target: str, requests: Sequence[bytes], callers: int, warm_s: float, seconds: float) -> Load:
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
    """Ask as the orders on standard input say, until there are no more.

    Args:
        target: "host:port".
        folder: holds the requests.
    """
    files = {kind: sorted(folder.glob(f"{kind}-*.bin")) for kind in ("pixels", "jpeg")}
    requests = {kind: [file.read_bytes() for file in own] for kind, own in files.items()}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        order = json.loads(line)
        load = asyncio.run(_ask(target, requests[order.pop("kind")], **order))
        sys.stdout.write(json.dumps({"latencies_ms": load.latencies_ms, "failed": load.failed}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    cyclopts.run(main)
