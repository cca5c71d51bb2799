"""A process that is killed at a chosen file system operation, which reaches every state a kill can leave behind."""

import os
import signal
import sys
from pathlib import Path

from unfreeze.contract.model.manifest import Manifest
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.device.update import PullOptions, pull

_CHANGES = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.truncate"}


def kill_at_operation(number: int, folder: Path) -> None:
    """Kill this process right before its n-th operation that changes something in a folder.

    Args:
        number: from 1.
        folder: operations on paths below it count: opening a file for writing, making, renaming and removing.
    """
    operations = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal operations
        if event not in _CHANGES and not (event == "open" and _writes(arguments)):
            return
        if any(isinstance(one, str | os.PathLike) and str(one).startswith(str(folder)) for one in arguments):
            operations += 1
            if operations == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def _writes(arguments: tuple[object, ...]) -> bool:
    _, mode, flags = arguments
    return (isinstance(mode, str) and mode[:1] in "wax+") or (isinstance(flags, int) and bool(flags & os.O_ACCMODE))


def publish_until(number: int, root: Path, name: str, model: bytes, manifest: str) -> None:
    """Publish a version, killed right before the n-th operation in the repository; for a process of its own."""
    repository, parsed = ModelRepository(root), Manifest.from_json(manifest)
    kill_at_operation(number, root)
    repository.publish(name, model, parsed, {"candidates.json": b"[]"})


def pull_until(number: int, source: str, folder: Path) -> None:
    """Pull, killed right before the n-th operation in the folder; 0 for never. For a process of its own."""
    if number:
        kill_at_operation(number, folder)
    pull(PullOptions(source=source, into=folder))
