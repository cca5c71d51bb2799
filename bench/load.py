"""A load generator for `unfreeze.v1.Classifier`: closed loop (N callers) or open loop (Poisson arrivals)."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import grpc
import numpy as np

from unfreeze.protos import unfreeze_pb2 as pb

METHOD = "/unfreeze.v1.Classifier/Predict"
_Predict: TypeAlias = grpc.aio.UnaryUnaryMultiCallable[bytes, pb.PredictResponse]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request.

    Args:
        began: start, in seconds after the load began.
        took_s: latency in seconds.
        status: name of the gRPC status.
        version: version of the model that answered; empty if the call failed.
    """

    began: float
    took_s: float
    status: str
    version: str


def requests_of(images: Sequence[bytes], each: int = 1) -> list[bytes]:
    """Serialize requests of `each` images once, so that the generator uses little CPU."""
    groups = (images[start : start + each] for start in range(0, len(images) - each + 1, each))
    return [pb.PredictRequest(images=group).SerializeToString() for group in groups]


async def callers(target: str, requests: Sequence[bytes], count: int, seconds: float, **limits: float) -> list[Call]:
    """Run callers that each send one request after the other, without a pause.

    Args:
        target: "host:port".
        requests: serialized requests, sent in turn.
        count: number of callers.
        seconds: duration.
        limits: keyword arguments of the gRPC call, such as `timeout`.
    """
    calls: list[Call] = []
    numbers = itertools.count()
    async with grpc.aio.insecure_channel(target) as channel:
        predict, begun = _predict(channel), time.monotonic()

        async def call() -> None:
            while time.monotonic() - begun < seconds:
                calls.append(await _call(predict, requests[next(numbers) % len(requests)], begun, limits))

        await asyncio.gather(*(call() for _ in range(count)))
    return calls


async def at_a_rate(target: str, requests: Sequence[bytes], rate: float, seconds: float, **limits: float) -> list[Call]:
    """Send requests at the times of a Poisson process, whether or not earlier ones have been answered.

    Args:
        target: "host:port".
        requests: serialized requests, sent in turn.
        rate: requests a second.
        seconds: duration.
        limits: keyword arguments of the gRPC call, such as `timeout`.
    """
    times = np.cumsum(np.random.default_rng(0).exponential(1 / rate, int(rate * seconds)))
    tasks: list[asyncio.Task[Call]] = []
    async with grpc.aio.insecure_channel(target) as channel:
        predict, begun = _predict(channel), time.monotonic()
        for number, at in enumerate(times):
            if (pause := at - (time.monotonic() - begun)) > 0:
                await asyncio.sleep(pause)
            tasks.append(asyncio.create_task(_call(predict, requests[number % len(requests)], begun, limits)))
        return list(await asyncio.gather(*tasks))


def _predict(channel: grpc.aio.Channel) -> _Predict:
    return channel.unary_unary(METHOD, response_deserializer=pb.PredictResponse.FromString)


async def _call(predict: _Predict, request: bytes, begun: float, limits: dict[str, float]) -> Call:
    started = time.monotonic()
    status, version = "OK", ""
    try:
        version = (await predict(request, **limits)).version
    except grpc.aio.AioRpcError as error:
        status = error.code().name
    return Call(began=started - begun, took_s=time.monotonic() - started, status=status, version=version)


def percentile_ms(calls: Sequence[Call], percent: float) -> float:
    """Return a percentile of the latencies in milliseconds; NaN without calls."""
    return 1000 * float(np.percentile([call.took_s for call in calls], percent)) if calls else float("nan")
