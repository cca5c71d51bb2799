"""Jobs over many images in processes of their own, which can be killed."""

import multiprocessing
import os
import resource
import signal
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from multiprocessing.process import BaseProcess
from pathlib import Path

from support.killing import kill_at_operation

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["unfreeze.batch.job", "unfreeze.commands.predict"])


def _run(arguments: list[str], stderr: Path, killed_at: tuple[int, Path] | None, file_limit_bytes: int | None) -> None:
    from unfreeze.command import main

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    if file_limit_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit_bytes, file_limit_bytes))
    if killed_at is not None:
        kill_at_operation(*killed_at)
    with stderr.open("w", encoding="utf-8", buffering=1) as file, redirect_stderr(file), redirect_stdout(StringIO()):
        main(arguments)


def start_job(
    *arguments: object,
    stderr: Path = Path(os.devnull),
    killed_at: tuple[int, Path] | None = None,
    file_limit_bytes: int | None = None,
) -> BaseProcess:
    """Start the command line in a process of its own, which has no torch.

    Args:
        arguments: of `unfreeze`.
        stderr: file that receives standard error.
        killed_at: number of the operation in a folder before which the process is killed, and the folder.
        file_limit_bytes: no file may grow beyond this, as on a full disk.
    """
    texts = [str(one) for one in arguments]
    process = _CONTEXT.Process(target=_run, args=(texts, stderr, killed_at, file_limit_bytes))
    process.start()
    return process
