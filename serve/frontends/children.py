"""Child processes of a server: how they are started, told what to do, and stopped."""

import asyncio
import dataclasses
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, Self

from unfreeze.contract import errors
from unfreeze.contract.errors import ServingError
from unfreeze.serve.observability.logs import LogOptions
from unfreeze.serve.options import ServeOptions

BEAT_S = 0.5  # between the signs of life of a process
_PATHS = "paths"
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChildTask:
    """What a child process is to do.

    Args:
        row: its row of the board: 0 executes the models, others are front ends.
        frontends: number of front-end processes.
        options: of the server.
        logs: format and level of the log.
        address: Unix socket of the process of the models.
        board: file descriptor of the board.
        lifeline: file descriptor that ends when the parent process does.
        listener: file descriptor of the socket that the process of the models accepts connections on; -1 for others.
    """

    row: int
    frontends: int
    options: ServeOptions
    logs: LogOptions
    address: Path
    board: int
    lifeline: int
    listener: int = -1

    @property
    def name(self) -> str:
        """The name of the process, for messages."""
        return f"front-end process {self.row}" if self.row else "process of the models"

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The file descriptors that it inherits."""
        return tuple(one for one in (self.board, self.lifeline, self.listener) if one >= 0)

    def to_json(self) -> str:
        """Write it as JSON."""
        options = vars(self.options)
        paths = [name for name, value in options.items() if isinstance(value, Path)]
        document = vars(self) | {"options": options, "logs": vars(self.logs), _PATHS: paths}
        return json.dumps(document, default=os.fspath)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read it from JSON."""
        document = json.loads(text)
        paths = document.pop(_PATHS)
        options = document.pop("options")
        for name in paths:
            options[name] = Path(options[name])
        for name in ("split", "shadow"):
            options[name] = tuple(options[name])
        logs, address = LogOptions(**document.pop("logs")), Path(document.pop("address"))
        return cls(options=ServeOptions(**options), logs=logs, address=address, **document)


class Child:
    """A running child process.

    Args:
        task: what it does.
        process: the process.
    """

    def __init__(self, task: ChildTask, process: asyncio.subprocess.Process) -> None:
        self.task, self._process = task, process

    @classmethod
    async def start(cls, task: ChildTask) -> Self:
        """Start a process."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "unfreeze.serve.frontends",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=task.descriptors,
        )
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        process.stdin.write(task.to_json().encode())
        process.stdin.close()
        return cls(task, process)

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    async def ready(self) -> dict[str, Any]:
        """Wait until it is ready.

        Returns:
            What it reported.

        Raises:
            UnfreezeError: it cannot be started; the same error as in the process.
            ServingError: it ended.
        """
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        line = await self._process.stdout.readline()
        if not line:
            raise ServingError(f"the {self.task.name} ended before it was ready ({describe_exit(await self.wait())})")
        report: dict[str, Any] = json.loads(line)
        if "error" in report:
            await self.wait()
            raise getattr(errors, report["error"], ServingError)(report["message"])
        return report

    async def wait(self) -> int:
        """Wait until it ends, and return its exit code; negative for a signal."""
        return await self._process.wait()

    async def last_report(self) -> dict[str, Any]:
        """Wait until it ends, and return what it reported last."""
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        lines = (await self._process.stdout.read()).splitlines()
        await self.wait()
        return json.loads(lines[-1]) if lines else {}

    def terminate(self) -> None:
        """Ask it to finish its requests and to end."""
        if self._process.returncode is None:
            self._process.terminate()

    def kill(self) -> None:
        """End it."""
        if self._process.returncode is None:
            self._process.kill()


class Reports:
    """Reports of a child to its parent; whatever else it prints goes to standard error."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(self, **document: Any) -> None:
        """Send a report."""
        self._file.write(json.dumps(document) + "\n")
        self._file.flush()


def describe_exit(code: int) -> str:
    """Describe an exit code in words; a negative one is the number of a signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
