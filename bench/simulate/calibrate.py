"""Measure what the stages of a request cost on this machine."""

import asyncio
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import grpc
import numpy as np
import psutil

from bench.endure import ServedProcess
from bench.load import Call, at_a_rate, callers
from bench.simulate.batcher import OK, Plan
from bench.simulate.costs import Costs
from unfreeze.contract.cores import usable_cores
from unfreeze.contract.images.preprocess import prepare
from unfreeze.protos import open_inference_pb2 as inference
from unfreeze.protos import unfreeze_pb2 as pb
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from unfreeze.protos.unfreeze_pb2_grpc import ClassifierStub
from unfreeze.serve.runtimes.onnx_cpu import open_path

_REPEATS = 9
_PLAN = re.compile(r"(\d+) instances? with (\d+) threads? each, batches of up to (\d+), images decoded (by|in)")
Load = Callable[[], list[Call]]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """CPU seconds that a load took.

    Args:
        calls: the load's calls.
        loop_s: of the server's event loop.
        other_s: of the server's other threads.
        client_s: of this process, the load generator.
        others_s: of all other processes of the machine, which should be idle.
        batches: number of batches by size.
    """

    calls: list[Call]
    loop_s: float
    other_s: float
    client_s: float
    others_s: float
    batches: Counter[int]

    @property
    def answered(self) -> int:
        """Number of answered calls."""
        return sum(call.status == OK for call in self.calls)


def measure_stages(model: Path, encoded: list[bytes], largest: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure the CPU seconds of decoding and of the runtime, on all cores at the same time.

    Args:
        model: the model file.
        encoded: images.
        largest: images in the largest batch.

    Returns:
        Of each image, and of batches of 1, 2, ... images.
    """
    found: list[tuple[list[float], list[float]]] = []
    with open_path(model, threads=1) as runtime:
        spec = runtime.manifest.preprocess

        def work() -> None:
            decode = [min(_cpu_s(lambda data=data: prepare(data, spec)) for _ in range(2)) for data in encoded]  # type: ignore[misc]
            pixels = np.stack([prepare(data, spec) for data in encoded[:largest]])
            infer = [
                median(_cpu_s(lambda size=size: runtime.run(pixels[:size])) for _ in range(_REPEATS))  # type: ignore[misc]
                for size in range(1, largest + 1)
            ]
            found.append((decode, infer))

        threads = [threading.Thread(target=work) for _ in range(usable_cores())]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    decodes, infers = zip(*found, strict=True)
    return tuple(map(mean, zip(*decodes, strict=True))), tuple(map(mean, zip(*infers, strict=True)))


def _cpu_s(step: Callable[[], Any]) -> float:
    started = time.thread_time()
    step()
    return time.thread_time() - started


def read_plan(target: str) -> Plan:
    """Ask a server for its execution plan."""
    with grpc.insecure_channel(target) as channel:
        text = ClassifierStub(channel).DescribeModel(pb.DescribeModelRequest()).execution_plan
    match = _PLAN.search(text)
    if match is None:
        raise RuntimeError(f"cannot read the execution plan {text!r}")
    instances, threads, max_batch = map(int, match.groups()[:3])
    return Plan(instances=instances, threads=threads, max_batch=max_batch, fused=match[4] == "by")


def observe(server: ServedProcess, load: Load) -> Usage:
    """Run a load, and measure who used the CPU."""
    before, client, batches = _threads_s(server), time.process_time(), _batches(server.target)
    machine_s = _machine_s()
    calls = load()
    client_s, machine_s = time.process_time() - client, _machine_s() - machine_s
    after = _threads_s(server)
    loop_s, all_s = (end - begin for begin, end in zip(before, after, strict=True))
    return Usage(
        calls=calls,
        loop_s=loop_s,
        other_s=all_s - loop_s,
        client_s=client_s,
        others_s=max(0.0, machine_s - all_s - client_s),
        batches=_batches(server.target) - batches,
    )


def measure_bridge(server: ServedProcess, requests: list[bytes], costs: Costs, seconds: float) -> float:
    """Measure what a request costs more in a server with front ends, in each of the two event loops.

    Args:
        server: runs the model behind front-end processes.
        requests: serialized requests of one image.
        costs: costs in a single process.
        seconds: duration of the load.
    """
    asyncio.run(callers(server.target, requests, 8, 1))
    before, batches = _processes_s(server), _batches(server.target)
    count = sum(call.status == OK for call in asyncio.run(callers(server.target, requests, 8, seconds)))
    spent_s, batches = _processes_s(server) - before, _batches(server.target) - batches
    infer_s = sum(number * costs.batch_s(size) for size, number in batches.items())
    other_s = (spent_s - infer_s) / count - costs.mean_decode_s - costs.transport_s - costs.loop_s
    return max(0.0, other_s / 2)


def _processes_s(server: ServedProcess) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in server.processes)


def _threads_s(server: ServedProcess) -> tuple[float, float]:
    """Return the CPU seconds of the event loop, which is the main thread, and of all threads."""
    threads = {thread.id: thread.user_time + thread.system_time for thread in server.seen.threads()}
    return threads[server.process.pid], sum(threads.values())


def _machine_s() -> float:
    """Return the CPU seconds of all processes of the machine."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def _batches(target: str) -> Counter[int]:
    with grpc.insecure_channel(target) as channel:
        models = GRPCInferenceServiceStub(channel).ModelStatistics(inference.ModelStatisticsRequest()).model_stats
    sizes: Counter[int] = Counter()
    for model in models:
        for batch in model.batch_stats:
            sizes[batch.batch_size] += batch.compute_infer.count
    return sizes


def calibrate(server: ServedProcess, requests: list[bytes], stages: Costs, seconds: float) -> Costs:
    """Measure the rest of a request: event loop, transport, refusals, and the load generator.

    Args:
        server: runs the model, with a short queue.
        requests: serialized requests of one image.
        stages: costs of decoding and of the runtime.
        seconds: duration of each of two loads.

    Returns:
        All costs.
    """
    asyncio.run(callers(server.target, requests, 8, 1))
    busy = observe(server, lambda: asyncio.run(callers(server.target, requests, 8, seconds)))
    count = busy.answered
    infer_s = sum(number * stages.batch_s(size) for size, number in busy.batches.items())
    loop_s = busy.loop_s / count
    rate = 4 * count / seconds
    flooded = observe(server, lambda: asyncio.run(at_a_rate(server.target, requests, rate, seconds)))
    refused = max(1, len(flooded.calls) - flooded.answered)
    known = {name: getattr(stages, name) for name in ("decode_s", "infer_s", "image_bytes", "pixels_bytes")}
    return Costs(
        **known,
        loop_s=loop_s,
        transport_s=max(0.0, (busy.other_s - infer_s) / count - stages.mean_decode_s),
        refuse_s=max(0.0, (flooded.loop_s - flooded.answered * loop_s) / refused),
        client_s=busy.client_s / count,
    )
