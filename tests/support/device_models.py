"""Versions of a model for devices: whole ones, and those that a device must refuse."""

import dataclasses
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from unfreeze.contract.model.manifest import Manifest
from unfreeze.contract.model.model_file import read_model
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.contract.model.seal import UNSEALED
from unfreeze.export.graph import with_manifest
from unfreeze.export.signing import sign_folder


def publish_again(model: Path, folder: Path, *, key: Path | None = None, broken: bool = False) -> int:
    """Publish a model as the next version.

    Args:
        model: path of a `model.onnx`.
        folder: of the model that gets the version.
        key: to sign it with.
        broken: change a weight and seal the file again, so that only the golden images detect it.

    Returns:
        The number of the version.
    """
    content, manifest = _broken(model) if broken else (model.read_bytes(), read_model(model).manifest)
    sign = None if key is None else lambda staged: sign_folder(staged, key)
    return ModelRepository(folder.parent).publish(folder.name, content, manifest, sign=sign)


def _broken(model: Path) -> tuple[bytes, Manifest]:
    manifest = dataclasses.replace(read_model(model).manifest, sha256=UNSEALED)
    graph = onnx.load(model)
    tensor = next(one for one in graph.graph.initializer if len(one.dims) == 4)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 0.1, tensor.name))
    return with_manifest(graph, manifest), manifest


class Classifying:
    """A process of `classify`, and its lines as they come."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def line(self, timeout_s: float = 60) -> dict[str, Any]:
        """Return the next line; waits for it."""
        found: dict[str, Any] = json.loads(self._lines.get(timeout=timeout_s))
        return found

    def has_line(self, within_s: float) -> bool:
        """Return whether another line comes within a time, without taking it."""
        try:
            line = self._lines.get(timeout=within_s)
        except queue.Empty:
            return False
        self._lines.put(line)
        return True

    def remark(self) -> str:
        """Return the next line on standard error; waits for it."""
        return self.process.stderr.readline()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line)


@contextmanager
def classifying(*arguments: object) -> Iterator[Classifying]:
    """Start `classify ARGUMENTS` in a process of its own; it is killed at the end if it is still there."""
    command = [sys.executable, "-m", "unfreeze.device.classify", *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield Classifying(process)
        finally:
            if process.poll() is None:
                process.kill()
