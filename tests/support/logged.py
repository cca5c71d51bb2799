"""Real servers with a log file."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.servers import RunningServer, serve_command


@dataclass(frozen=True, kw_only=True)
class LoggedServer:
    """A server, and the file that its standard error is written to."""

    server: RunningServer
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        """Parse the log; each line must be JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def wait_for(self, matches: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Wait until there is a matching line; returns all matching lines."""
        until = time.monotonic() + 20
        while not (found := [line for line in self.lines() if matches(line)]):
            assert time.monotonic() < until, f"no matching line in {self.lines()}"
            time.sleep(0.01)
        return found

    def metrics_url(self) -> str:
        """Return the URL of the metrics endpoint."""
        (line,) = self.wait_for(lambda line: line["message"].startswith("metrics on "))
        return str(line["message"].removeprefix("metrics on "))


@contextmanager
def logged_server(repository: Path, log: Path, *arguments: str, **environment: str) -> Iterator[LoggedServer]:
    """Run `unfreeze serve` with JSON logs."""
    command = [*serve_command(repository), "--log-format", "json", *arguments]
    with (
        log.open("w") as log_file,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log_file, text=True, env={**os.environ, **environment}
        ) as process,
    ):
        line = process.stdout.readline()
        assert line.startswith("serving "), log.read_text()
        logged = LoggedServer(server=RunningServer(process=process, target=line.split()[-1]), log=log)
        try:
            yield logged
        finally:
            if process.poll() is None:
                logged.server.terminate()
