"""Start a server in a separate process and measure its throughput."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from unfreeze.contract.errors import ServingError
from unfreeze.serve.client.blocking import Client

_CLIENTS = 8
_READY = "serving "


@contextmanager
def serving(repository: Path, *arguments: str) -> Iterator[str]:
    """Run `unfreeze serve` in a separate process, on a free port, without its metrics endpoint.

    Args:
        repository: Model repository.
        arguments: Further arguments of `unfreeze serve`.

    Yields:
        The server's address, "host:port".

    Raises:
        ServingError: The server did not start.
    """
    command = [sys.executable, "-m", "unfreeze.command", "serve", "--repository", str(repository)]
    command += ["--port", "0", "--no-metrics"]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own command
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line.startswith(_READY):
                raise ServingError("the server did not start; see its error message above")
            yield line.split()[-1]
        finally:
            process.terminate()
            process.wait()  # after Ctrl-C, Popen itself waits only for a moment


def requests_per_second(target: str, model: str, images: Sequence[bytes], seconds: float) -> float:
    """Measure the throughput of requests that carry one encoded image each, sent by 8 concurrent clients.

    Each client sends its next request when it has the response to the previous one.

    Args:
        target: The server's address, "host:port".
        model: Name of the model.
        images: Encoded images, sent in turn.
        seconds: Duration of the measurement.

    Raises:
        ServingError: A request failed.
    """
    started = time.monotonic()
    deadline = started + seconds

    def send_requests(first: int) -> int:
        done = 0
        with Client(target) as client:
            while time.monotonic() < deadline:
                client.predict([images[(first + done) % len(images)]], model=model, top_k=1)
                done += 1
        return done

    with ThreadPoolExecutor(_CLIENTS) as pool:
        total = sum(pool.map(send_requests, range(0, _CLIENTS * 100, 100)))
    return total / (time.monotonic() - started)
