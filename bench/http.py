"""What `unfreeze serve --http` costs gRPC, and how many HTTP callers are answered beside it.

python -m bench.http
python -m bench.http --rounds 15 --callers 200

Two servers, without and with `--http`, run at the same time and are loaded over gRPC in turn, in short rounds. The
ratio of neighboring rounds is less noisy than the machine; their median is shown with its quartiles. Then the second
server is loaded by HTTP callers, each on a connection of its own, while gRPC callers go on: every request must be
answered. The load shares the cores with the server.
"""

import asyncio
import json as jsons
import socket
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import numpy as np
from rich.table import Table

from bench.images import write_textures
from bench.load import callers as grpc_callers
from bench.load import requests_of
from bench.models import publish_random
from unfreeze.console import REMARKS, RESULTS, print_json
from unfreeze.demo.serving import serving

_PATH = "/v1/models/random:classify"
_GRPC_CALLERS = 8


def main(
    *,
    rounds: int = 15,
    seconds: float = 4.0,
    callers: int = 200,
    beside_s: float = 15.0,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Measure both.

    Args:
        rounds: number of rounds with each server.
        seconds: duration of a round.
        callers: HTTP callers beside gRPC.
        beside_s: duration of that load.
        json: print JSON instead of a table.
    """
    with tempfile.TemporaryDirectory() as folder:
        repository = publish_random("mobilenet_v3_small", Path(folder))
        write_textures(Path(folder) / "images", 10)
        images = [file.read_bytes() for file in sorted((Path(folder) / "images").rglob("*.jpg"))]
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        options = "--poll-s", "0", "--threads", "1", "--instances", "1"
        with serving(repository, *options) as plain, serving(repository, *options, "--http", str(port)) as with_http:
            ratios = _ratios(plain, with_http, requests_of(images), rounds, seconds)
            document = {"ratios": ratios, **asyncio.run(_beside(with_http, port, images, callers, beside_s))}
    if json:
        print_json(document)
        return
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    table = Table("figure", "value", title=f"{rounds} rounds of {seconds:g} s")
    table.add_row("gRPC requests a second, with --http / without", f"{middle:.3f} (quartiles {low:.3f} and {high:.3f})")
    table.add_row(f"HTTP answers with {callers} callers", f"{document['http']}, {document['http_rate']:.0f} a second")
    table.add_row(f"gRPC answers beside them, {_GRPC_CALLERS} callers", f"{document['grpc']}")
    RESULTS.print(table)


def _ratios(plain: str, with_http: str, requests: list[bytes], rounds: int, seconds: float) -> list[float]:
    def rate(target: str) -> float:
        return len(asyncio.run(grpc_callers(target, requests, _GRPC_CALLERS, seconds))) / seconds

    for target in (plain, with_http):
        rate(target)  # warm up
    ratios = []
    for number in range(rounds):
        pair = {target: rate(target) for target in ((plain, with_http) if number % 2 else (with_http, plain))}
        ratios.append(pair[with_http] / pair[plain])
        REMARKS.print(f"{pair[plain]:.1f} a second without, {pair[with_http]:.1f} with: {ratios[-1]:.3f}")
    return ratios


async def _beside(target: str, port: int, images: list[bytes], callers: int, seconds: float) -> dict[str, Any]:
    """Load a server over HTTP and over gRPC at the same time; count the answers by status."""
    until = time.monotonic() + seconds
    statuses: Counter[str] = Counter()
    http = (_http_caller(port, images, number, until, statuses) for number in range(callers))
    calls, *_ = await asyncio.gather(grpc_callers(target, requests_of(images), _GRPC_CALLERS, seconds), *http)
    grpc_statuses = Counter(call.status for call in calls)
    return {"http": dict(statuses), "http_rate": statuses.total() / seconds, "grpc": dict(grpc_statuses)}


async def _http_caller(port: int, images: list[bytes], number: int, until: float, statuses: Counter[str]) -> None:
    """Send one request after the other on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while time.monotonic() < until:
            image = images[number % len(images)]
            head = f"POST {_PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(image)}\r\n\r\n"
            writer.write(head.encode() + image)
            header = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(header.partition("content-length:")[2].split("\r\n", 1)[0])
            answer = jsons.loads(await reader.readexactly(length))
            statuses[header.split()[1] if "predictions" in answer else f"{header.split()[1]}: {answer['error']}"] += 1
            number += 1
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        statuses[type(error).__name__] += 1
    finally:
        writer.close()


if __name__ == "__main__":
    cyclopts.run(main)
