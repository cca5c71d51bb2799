"""Real servers, each in a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """A server's process and where it answers."""

    process: "subprocess.Popen[str]"
    target: str

    def terminate(self, timeout_s: float = 30) -> int:
        """Send SIGTERM and give the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


def serve_command(repository: Path, port: int | str = 0) -> list[str]:
    """Give the command that serves a repository, on a free port unless one is named."""
    command = [sys.executable, "-m", "unfreeze.command", "serve"]
    return [*command, "--repository", str(repository), "--port", str(port), "--metrics-port", "0"]


@contextmanager
def running_server(repository: Path, *arguments: str) -> Iterator[RunningServer]:
    """Start `unfreeze serve` on a free port and stop it in the end."""
    command = serve_command(repository)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GRPC_")}
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True, env=environment) as process:
        line = process.stdout.readline()
        assert line.startswith("serving "), f"the server did not start: {line!r}"
        server = RunningServer(process=process, target=line.split()[-1])
        try:
            yield server
        finally:
            if process.poll() is None:
                server.terminate()
