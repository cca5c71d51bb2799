"""One part of `bench.gpu`, in a process of its own: what crashes or hangs there takes nothing else along.

python -m bench.gpu.part NAME SETTING

What is found is written down at once, one JSON object a line, in `NAME.jsonl` of the setting's folder.
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
_OF_THE_LIMIT = 0.85  # a part plans for this much of its time: the last measurement may take longer
_GRACE_S = 8
_ORDER = ("fp16", "fp32", "int8")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is to be measured, and where.

    Args:
        folder: takes images, models and findings.
        device: "cuda" or "cpu".
        backbones: whose models are served, by torchvision's names.
        tuned: those that are trained; the first gives the epochs that are compared.
        precisions: of the models.
        batches: sizes for the raw runtime.
        concurrency: requests in flight.
        images: folder of labeled images; empty draws some.
        each_s: the longest that one measurement may take, in seconds.
        drawn: images of each of fourteen kinds, where none are given.
        trained: images in an epoch.
        train_batch: images a training step.
        seconds: for one part.
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
        """Name the repository of one model, which is called as its folder."""
        return Path(self.folder) / "models" / f"{backbone}-{precision}"

    def names(self) -> list[tuple[str, str]]:
        """List backbones and precisions, what most is asked about first, for where time runs out."""
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
    """What a part is told, the time that it has, and the way to write down what it finds.

    Args:
        name: of the part.
        setting: what to measure.
    """

    def __init__(self, name: str, setting: Setting) -> None:
        self.name, self.setting = name, setting
        self._until = time.monotonic() + setting.seconds
        self._file = findings_file(setting, name)

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self._until - time.monotonic()

    def each_s(self, count: int, aside_s: float = 0.0) -> float:
        """Say how long one of so many measurements may take.

        Args:
            count: how many are to come.
            aside_s: what else each of them takes.
        """
        return max(0.0, min(self.setting.each_s, self.left_s / count - aside_s))

    def note(self, kind: str, **figures: Any) -> None:
        """Write down a finding."""
        with self._file.open("a") as file:
            file.write(json.dumps({"kind": kind, "part": self.name, **figures}) + "\n")

    def left_out(self, what: str, reason: str) -> None:
        """Write down what could not be measured here, and why."""
        self.note(LEFT_OUT, what=what, reason=reason)

    @contextlib.contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """Go on behind the body if it fails, and write that down."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it was, the rest is to be measured
            traceback.print_exc()
            self.note(FAILED, what=what, reason=first_line(error))


def findings_file(setting: Setting, name: str) -> Path:
    """Name the file that takes a part's findings."""
    return Path(setting.folder) / f"{name}.jsonl"


def run_part(name: str, setting: Setting, limit_s: float) -> list[Finding]:
    """Run a part in a process of its own, and end it where it takes longer than it may.

    Args:
        name: of the module in `bench.gpu`.
        setting: what to measure.
        limit_s: seconds that it may take.
    """
    told = json.dumps(asdict(replace(setting, seconds=_OF_THE_LIMIT * limit_s)))
    command = [sys.executable, "-m", "bench.gpu.part", name, told]
    findings: list[Finding] = []
    with subprocess.Popen(command, stdout=sys.stderr, start_new_session=True) as process:
        try:
            if process.wait(limit_s):
                findings = [_problem(FAILED, name, f"it ended with code {process.returncode}")]
        except subprocess.TimeoutExpired:
            findings = [_problem(LEFT_OUT, name, f"what was not done after {limit_s:.0f} s")]
        finally:
            _end(process)
    file = findings_file(setting, name)
    written = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return written + findings


def _problem(kind: str, name: str, reason: str) -> Finding:
    return {"kind": kind, "part": name, "what": f"the rest of {name}", "reason": reason}


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a part, and the servers that it started, in case that it could not do so itself."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def main(name: str, setting: str) -> None:
    """Measure one part.

    Args:
        name: of the module in `bench.gpu`.
        setting: as JSON.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # servers are ended on the way out
    told = {key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(setting).items()}
    part = Part(name, Setting(**told))
    try:
        importlib.import_module(f"bench.gpu.{name}").measure(part)
    except ModuleNotFoundError as error:
        part.left_out(name, f"the package {error.name} is not installed")
    except Exception as error:  # noqa: BLE001 - whatever it was, it is told in the report
        traceback.print_exc()
        part.note(FAILED, what=f"the rest of {name}", reason=first_line(error))


if __name__ == "__main__":
    cyclopts.run(main)
