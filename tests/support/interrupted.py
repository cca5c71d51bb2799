"""Tuning in processes of their own that end at chosen moments, by real signals.

The processes are forked from a server that has imported the training stack, so each starts within a fraction of a
second.
"""

import multiprocessing
import os
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from unfreeze.contract.reporting import Silent
from unfreeze.tune.options import TuneOptions

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["unfreeze.tune.run", "unfreeze.commands.tune"])


@dataclass(frozen=True)
class Moment:
    """A moment of a run.

    Args:
        progress: when the progress with this beginning is at `step`.
        writing: when the file of this name is written for the `step`-th time, before it is complete.
        step: counted from 0 for progress, and from 1 for files.
    """

    progress: str = ""
    writing: str = ""
    step: int = 0


class _Killer:
    """A reporter that kills its process at a moment."""

    def __init__(self, moment: Moment) -> None:
        self.moment = moment

    def info(self, text: str) -> None:
        """Ignore a message."""

    def track(self, what: str, total: int) -> Callable[[int], None]:
        """Count the steps of the progress that the moment names."""
        if not self.moment.progress or not what.startswith(self.moment.progress):
            return Silent().track(what, total)
        done = 0

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            if done >= self.moment.step:
                os.kill(os.getpid(), signal.SIGKILL)

        advance(0)
        return advance


def _kill_while_writing(moment: Moment) -> None:
    """Kill this process at the flush that comes before a file gets its name."""
    flush, count = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal count
        count += Path(f"/proc/self/fd/{descriptor}").readlink().name == f".{moment.writing}.new"
        if count == moment.step:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(descriptor)

    os.fsync = fsync


def _tune(data: Path, out: Path, options: TuneOptions, moment: Moment | None, arguments: dict[str, Any]) -> None:
    from unfreeze.tune.run import fine_tune

    torch.set_num_threads(1)
    if moment and moment.writing:
        _kill_while_writing(moment)
    fine_tune(data, out, options, _Killer(moment) if moment else None, **arguments)


def tune_in_process(
    data: Path, out: Path, options: TuneOptions, moment: Moment | None = None, **arguments: bool
) -> int | None:
    """Tune in a process of its own.

    Args:
        data: the images.
        out: the run's folder.
        options: of the run.
        moment: at which the process is killed; None lets it finish.
        arguments: of `fine_tune`.

    Returns:
        The exit code: 0 if it finished, -9 if it was killed.
    """
    process = _CONTEXT.Process(target=_tune, args=(data, out, options, moment, arguments))
    process.start()
    process.join()
    return process.exitcode


def _tune_as(rank: int, count: int, port: int, data: Path, out: Path, options: TuneOptions) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= address | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    _tune(data, out, options, None, {})


def tune_in_processes(data: Path, out: Path, options: TuneOptions, count: int) -> None:
    """Tune with several processes, in the environment that torchrun gives them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = count, port, data, out, options
    processes = [_CONTEXT.Process(target=_tune_as, args=(rank, *arguments)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * count


def _command(arguments: list[str], stderr: Path, file_limit_bytes: int | None) -> None:
    from unfreeze.command import main

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    if file_limit_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit_bytes, file_limit_bytes))
    with stderr.open("w", encoding="utf-8", buffering=1) as file, redirect_stderr(file), redirect_stdout(StringIO()):
        main(arguments)


def start_command(*arguments: object, stderr: Path, file_limit_bytes: int | None = None) -> BaseProcess:
    """Start the command line in a process of its own.

    Args:
        arguments: of `unfreeze`.
        stderr: file that receives standard error.
        file_limit_bytes: no file may grow beyond this, as on a full disk.
    """
    process = _CONTEXT.Process(target=_command, args=([str(one) for one in arguments], stderr, file_limit_bytes))
    process.start()
    return process


def stop_fork_server() -> None:
    """Stop the server that processes are forked from; the next one starts another."""
    from multiprocessing import forkserver

    with suppress(AttributeError, OSError):
        forkserver._forkserver._stop()
