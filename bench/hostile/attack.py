"""Send mutated calls concurrently and check every answer."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import grpc
import psutil
from google.protobuf.message import DecodeError, Message

from bench.hostile.jobs import Call, Job
from unfreeze.protos import open_inference_pb2, unfreeze_pb2

AT_ONCE, HANGS_S = 8, 30.0
_ANY = frozenset({"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"})
_CODES = {status.value[0]: status.name for status in grpc.StatusCode}
_LEAK = re.compile(r"Traceback|site-packages|\.py\b|object at 0x|<class |Errno|internal error")
_SAMPLE_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The outcome of a call.

    Args:
        status: name of the gRPC status, or "HANGS".
        details: message of the status.
        responses: serialized responses.
        seconds: latency.
    """

    status: str
    details: str = ""
    responses: tuple[bytes, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A broken promise.

    Args:
        number: number of the job.
        what: the broken promise.
        call: the call that broke it.
    """

    number: int
    what: str
    call: Call


@dataclass(kw_only=True)
class Tally:
    """Observations of a run.

    Args:
        statuses: number of calls by kind and status; an "OK" stream may contain errors.
        violations: broken promises.
        rss_mib: samples of the resident memory of the server and its child processes.
        slowest_s: longest latency.
        calls: number of calls.
        seconds: total time.
    """

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    rss_mib: list[float] = field(default_factory=list)
    slowest_s: float = 0.0
    calls: int = 0
    seconds: float = 0.0


async def attack(
    target: str, server: int, secrets: Iterable[str], jobs: Iterable[Job], advance: Callable[[int], None]
) -> Tally:
    """Send jobs, eight concurrently, until they are done or the server dies.

    Args:
        target: "host:port".
        server: process id.
        secrets: strings that no answer may contain, such as the repository's path.
        jobs: calls to make.
        advance: called with 1 after each job.

    Returns:
        The observations.
    """
    process, left, hidden = psutil.Process(server), enumerate(jobs), tuple(secrets)
    tally, started = Tally(), time.monotonic()
    children = process.children()

    async def work(channels: _Channels) -> None:
        for number, job in left:
            answers = [await ask(channels, call) for call in job.calls]
            _note(tally, job, number, answers, hidden)
            if process.status() == psutil.STATUS_ZOMBIE or not all(child.is_running() for child in children):
                tally.violations.append(Violation(number=number, what="the server is dead", call=job.calls[-1]))
                return
            if number % _SAMPLE_EVERY == 0:
                tally.rss_mib.append(sum(one.memory_info().rss for one in (process, *children)) / 2**20)
            advance(1)

    async with _Channels(target) as channels:
        await asyncio.gather(*(work(channels) for _ in range(AT_ONCE)))
    tally.seconds = time.monotonic() - started
    return tally


class _Channels:
    """Channels for unary calls and for streams.

    When a server ends a stream while the client still writes, gRPC's asyncio client reports its own error instead
    of the server's status; the blocking client does not.
    """

    def __init__(self, target: str) -> None:
        self._single, self._streams = grpc.aio.insecure_channel(target), grpc.insecure_channel(target)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._single.close()
        self._streams.close()

    async def call(self, call: Call) -> list[bytes]:
        """Send serialized messages unchanged."""
        if not call.method.streams:
            return [await self._single.unary_unary(call.method.path)(call.messages[0])]
        return await asyncio.to_thread(lambda: list(self._streams.stream_stream(call.method.path)(iter(call.messages))))


async def ask(channels: _Channels, call: Call) -> Answer:
    """Make a call.

    Args:
        channels: channels to the server.
        call: the call to make.
    """
    started = time.monotonic()
    try:
        async with asyncio.timeout(HANGS_S):
            responses = await channels.call(call)
    except TimeoutError:
        return Answer(status="HANGS", seconds=HANGS_S)
    except grpc.RpcError as error:
        seconds = time.monotonic() - started
        return Answer(status=error.code().name, details=error.details() or "", seconds=seconds)
    return Answer(status="OK", responses=tuple(responses), seconds=time.monotonic() - started)


def _note(tally: Tally, job: Job, number: int, answers: list[Answer], secrets: tuple[str, ...]) -> None:
    for call, answer in zip(job.calls, answers, strict=True):
        tally.calls += 1
        tally.statuses[job.kind, answer.status] += 1
        tally.slowest_s = max(tally.slowest_s, answer.seconds)
        for what in _faults(call, answer, secrets):
            tally.violations.append(Violation(number=number, what=what, call=call))
    if job.kind != "image":
        return
    if len({(answer.status, answer.details) for answer in answers}) > 1:
        what = f"ways to send an image differ: {[(answer.status, answer.details) for answer in answers]}"
        tally.violations.append(Violation(number=number, what=what, call=job.calls[0]))
    elif answers[0].status != "OK" and not answers[0].details.startswith(job.named):
        what = f"a refusal does not name the image: {answers[0].status}, {answers[0].details}"
        tally.violations.append(Violation(number=number, what=what, call=job.calls[0]))


def _faults(call: Call, answer: Answer, secrets: tuple[str, ...]) -> list[str]:
    """List what is wrong with an answer."""
    faults = [] if answer.status in _ANY | call.may else [f"{call.method.path} is {answer.status}: {answer.details}"]
    texts = [answer.details]
    for data in answer.responses:
        try:
            response = call.method.gives.FromString(data)
        except DecodeError:
            faults.append(
                f"{call.method.path} answers with something other than {call.method.gives.DESCRIPTOR.full_name}"
            )
            continue
        status, text = refused_within(response)
        texts.append(text)
        if status not in _ANY | call.may:
            faults.append(f"{call.method.path} holds {status}: {text}")
    return faults + [f"an answer reveals details of the machine: {text}" for text in texts if leaks(text, secrets)]


def leaks(text: str, secrets: tuple[str, ...]) -> bool:
    """Return whether a message reveals internals: traces, types, paths."""
    return _LEAK.search(text) is not None or any(secret in text for secret in secrets)


def refused_within(response: Message) -> tuple[str, str]:
    """Return the status and message of an error inside a stream; "OK" without one."""
    if isinstance(response, unfreeze_pb2.PredictStreamResponse) and response.HasField("error"):
        return _CODES[response.error.code], response.error.message
    if isinstance(response, open_inference_pb2.ModelStreamInferResponse):
        return "OK", response.error_message
    return "OK", ""


def save(violations: Iterable[Violation], folder: Path) -> None:
    """Save the messages of each violation, with a description.

    Args:
        violations: the violations.
        folder: created if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for violation in violations:
        for index, message in enumerate(violation.call.messages):
            (folder / f"{violation.number:06}-{index}.bin").write_bytes(message)
        text = f"{violation.call.method.path}\n{violation.what}\n"
        (folder / f"{violation.number:06}.txt").write_text(text, encoding="utf-8")
