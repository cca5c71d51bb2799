"""Runs the `unfreeze` command in this process, which saves the seconds that a new process needs for its imports."""

import io
import logging
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from unfreeze.command import main

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_cli(*args: object, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run `unfreeze ARGS` in this process and capture what it prints.

    Both rich consoles look their stream up at each print, so redirecting `sys.stdout` and `sys.stderr` captures them.
    An exception that would end a real process with a traceback is raised here.

    Args:
        args: The command line; each argument is converted by `str`.
        cwd: Working directory during the run.

    Returns:
        Exit code, standard output and standard error, as `subprocess.run(..., text=True)` returns them.
    """
    command = [str(argument) for argument in args]
    stdout, stderr = _stream("strict"), _stream("backslashreplace")
    with _process_state_restored(), redirect_stdout(stdout), redirect_stderr(stderr), chdir(cwd or Path.cwd()):
        code = _exit_code(command)
    return subprocess.CompletedProcess(["unfreeze", *command], code, _text(stdout), _text(stderr))


def _exit_code(command: list[str]) -> int:
    try:
        main(command)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
            return 1
        return stop.code or 0
    return 0


@contextmanager
def _process_state_restored() -> Iterator[None]:
    """Restore what a command may change in its process: signal handlers, logging and warning filters."""
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    root, ours = logging.getLogger(), logging.getLogger("unfreeze")
    levels, log_handlers = (root.level, ours.level), list(root.handlers)
    with warnings.catch_warnings():
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            logging.captureWarnings(capture=False)
            root.handlers[:] = log_handlers
            root.setLevel(levels[0])
            ours.setLevel(levels[1])


def _stream(errors: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=errors, newline="", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    content = stream.buffer
    assert isinstance(content, io.BytesIO)
    return content.getvalue().decode("utf-8")
