"""The folder of a run: check it, lock it, and clear an earlier run from it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unfreeze.contract.errors import CheckpointError
from unfreeze.tune.artifacts.checkpoint import FACTS_FILE, METRICS_FILE, WEIGHTS_FILE
from unfreeze.tune.artifacts.embedding import EMBEDDING_FILE
from unfreeze.tune.artifacts.journal import EVENTS_FOLDER, LINES_FILE
from unfreeze.tune.artifacts.predictions import PREDICTIONS_FILE
from unfreeze.tune.artifacts.resume import ResumeState
from unfreeze.tune.issues.issue_file import ISSUES_FILE

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

REPORT_FILE, TRACKING_FILE = "report.html", "tracking.json"


def check_folder(out: Path, *, overwrite: bool, resume: bool) -> None:
    """Check that a run can be written to a folder.

    Args:
        out: the folder, which may not exist yet.
        overwrite: whether an existing run is replaced.
        resume: whether an unfinished run is continued.

    Raises:
        CheckpointError: the options contradict each other, the folder contains a run that is neither replaced nor
            continued, or there is no unfinished run to continue.
    """
    unfinished = ResumeState(out).exists()
    if overwrite and resume:
        raise CheckpointError("--overwrite starts over and --resume continues; give only one of them")
    if (out / FACTS_FILE).exists() and not overwrite:
        raise CheckpointError(f"{out} already contains a run; choose another --out, or use --overwrite")
    if unfinished and not (overwrite or resume):
        raise CheckpointError(
            f"{out} contains an unfinished run; continue it with --resume, or start over with --overwrite"
        )
    if resume and not unfinished:
        raise CheckpointError(f"{out} contains no unfinished run to --resume; leave out --resume to start one")


@contextmanager
def locked_folder(out: Path) -> Iterator[None]:
    """Create the folder of a run and lock it against other processes.

    Args:
        out: the folder.

    Raises:
        CheckpointError: it cannot be created, or another process has locked it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(f"{out} cannot be a run's folder: {error.strerror}; choose another --out") from error
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise CheckpointError(f"another process is writing a run to {out}; choose another --out") from None
    finally:
        os.close(descriptor)


def remove_run(out: Path) -> None:
    """Delete the files of an earlier run; other files of the folder stay."""
    tables = LINES_FILE, ISSUES_FILE, PREDICTIONS_FILE, EMBEDDING_FILE, TRACKING_FILE
    for name in (FACTS_FILE, METRICS_FILE, WEIGHTS_FILE, *tables, REPORT_FILE):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / EVENTS_FOLDER, ignore_errors=True)
