"""One part of `bench.gpu` in its own process, so that a crash or hang affects no other.

python -m bench.gpu.part NAME SETTING

Results are written at once, one JSON object a line, to `NAME.jsonl` in the setting's folder.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cyclopts

from unfreeze.contract.errors import first_line
from unfreeze.contract.model.repository import ModelRepository

LEFT_OUT, FAILED = "left out", "failed"
Finding = dict[str, Any]
_OF_THE_LIMIT = 0.85  # share of its time that a part plans for, because the last measurement may take longer
_GRACE_S = 8
_ORDER = ("fp16", "fp32", "int8")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What to measure, and where.

    Args:
        folder: receives images, models and findings.
        device: "cuda" or "cpu".
        backbones: networks to serve, by torchvision's names.
        tuned: networks to train; epochs are compared for the first.
        precisions: precisions of the models.
        batches: batch sizes for the raw runtime.
        concurrency: requests in flight.
        images: folder of labeled images; empty to draw some.
        each_s: longest duration of one measurement, in seconds.
        drawn: drawn images of each of fourteen kinds, if no folder is given.
        trained: images in an epoch.
        train_batch: images a training step.
        seconds: time limit of one part.
    """

    folder: str
    device: str
    backbones: tuple[str, ...]
    tuned: tuple[str, ...]
    precisions: tuple[str, ...]
    batches: tuple[int, ...]
    concurrency: tuple[int, ...]
    images: str
    each_s: float
    drawn: int
    trained: int
    train_batch: int
    seconds: float = 0.0

    @property
    def data(self) -> Path:
        """The folder of labeled images."""
        return Path(self.images or Path(self.folder) / "images")

    def repository(self, backbone: str, precision: str) -> Path:
        """Return the repository of one model, whose name is that of the folder."""
        return Path(self.folder) / "models" / f"{backbone}-{precision}"

    def names(self) -> list[tuple[str, str]]:
        """List backbones and precisions, the most important first in case time runs out."""
        return [(backbone, one) for one in sorted(self.precisions, key=_ORDER.index) for backbone in self.backbones]

    def models(self) -> list[tuple[str, str, Path]]:
        """List what was exported: backbone, precision and file."""
        found = []
        for backbone, precision in self.names():
            folder = self.repository(backbone, precision)
            repository = ModelRepository(folder)
            versions = repository.versions(folder.name) if folder.is_dir() else ()
            found += [(backbone, precision, repository.path(folder.name, one)) for one in versions[-1:]]
        return found


class Part:
    """A part's settings, its remaining time, and its record of findings.

    Args:
        name: name of the part.
        setting: what to measure.
    """

    def __init__(self, name: str, setting: Setting) -> None:
        self.name, self.setting = name, setting
        self._until = time.monotonic() + setting.seconds
        self._file = findings_file(setting, name)

    @property
    def left_s(self) -> float:
        """Remaining seconds."""
        return self._until - time.monotonic()

    def each_s(self, count: int, aside_s: float = 0.0) -> float:
        """Return how long one of the remaining measurements may take, in seconds.

        Args:
            count: number of remaining measurements.
            aside_s: overhead of each in seconds.
        """
        return max(0.0, min(self.setting.each_s, self.left_s / count - aside_s))

    def note(self, kind: str, **figures: Any) -> None:
        """Record a finding."""
        with self._file.open("a") as file:
            file.write(json.dumps({"kind": kind, "part": self.name, **figures}) + "\n")

    def left_out(self, what: str, reason: str) -> None:
        """Record what could not be measured, and why."""
        self.note(LEFT_OUT, what=what, reason=reason)

    @contextlib.contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """Record a failure of the body and continue after it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever failed, the rest is measured
            traceback.print_exc()
            self.note(FAILED, what=what, reason=first_line(error))


def findings_file(setting: Setting, name: str) -> Path:
    """Return the file of a part's findings."""
    return Path(setting.folder) / f"{name}.jsonl"


def run_part(name: str, setting: Setting, limit_s: float) -> list[Finding]:
    """Run a part in its own process, and end it at its time limit.

    Args:
        name: module in `bench.gpu`.
        setting: what to measure.
        limit_s: time limit in seconds.
    """
    arguments = json.dumps(asdict(replace(setting, seconds=_OF_THE_LIMIT * limit_s)))
    command = [sys.executable, "-m", "bench.gpu.part", name, arguments]
    findings: list[Finding] = []
    with subprocess.Popen(command, stdout=sys.stderr, start_new_session=True) as process:
        try:
            if process.wait(limit_s):
                findings = [_problem(FAILED, name, f"exit code {process.returncode}")]
        except subprocess.TimeoutExpired:
            findings = [_problem(LEFT_OUT, name, f"not finished after {limit_s:.0f} s")]
        finally:
            _end(process)
    file = findings_file(setting, name)
    written = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return written + findings


def _problem(kind: str, name: str, reason: str) -> Finding:
    return {"kind": kind, "part": name, "what": f"the rest of {name}", "reason": reason}


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a part and the servers that it started."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def main(name: str, setting: str) -> None:
    """Measure one part.

    Args:
        name: module in `bench.gpu`.
        setting: as JSON.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # context managers stop the servers
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(setting).items()}
    part = Part(name, Setting(**values))
    try:
        importlib.import_module(f"bench.gpu.{name}").measure(part)
    except ModuleNotFoundError as error:
        part.left_out(name, f"the package {error.name} is not installed")
    except Exception as error:  # noqa: BLE001 - reported in the table
        traceback.print_exc()
        part.note(FAILED, what=f"the rest of {name}", reason=first_line(error))


if __name__ == "__main__":
    cyclopts.run(main)
