"""Measure a device's package: sizes, the first answer of a new process, and memory, in an environment of its own.

python -m bench.bundle models/flowers image.jpg
"""

import json as json_format
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from bench.sizes import megabytes
from unfreeze.device.bundle import BundleOptions, write_bundle

app = App(help=__doc__)
_FLAG = Parameter(negative="")


@app.default
def run(
    model: Path,
    image: Path,
    *,
    platform: str = "linux-x86_64",
    repeats: int = 9,
    json: Annotated[bool, _FLAG] = False,
) -> None:
    """Write a bundle with its wheels, install them into a new environment, and measure what its README says.

    Args:
        model: folder of a model.
        image: image to classify.
        platform: of this machine.
        repeats: number of processes for each figure, of which the median counts.
        json: print JSON instead of a table.
    """
    with tempfile.TemporaryDirectory() as temporary:
        bundle = Path(temporary) / "app"
        write_bundle(model, bundle, BundleOptions(platform=platform, with_wheels=True))  # type: ignore[arg-type]
        figures = _sizes(bundle) | _measure(bundle, _install(bundle), image.absolute(), repeats)
    if json:
        print(json_format.dumps(figures))  # noqa: T201
        return
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.3f}" if isinstance(value, float) else f"{value:,}")
    Console().print(table)


def _sizes(bundle: Path) -> dict[str, Any]:
    wheels = megabytes(bundle / "wheels")
    return {"wheels, MB": wheels, "bundle with wheels, MB": megabytes(bundle)} | {
        f"modules, {name}": value
        for name, value in (("number", len(list((bundle / "lib").rglob("*.py")))), ("MB", megabytes(bundle / "lib")))
    }


def _install(bundle: Path) -> Path:
    """Install the bundle's wheels as its README says, and compile its modules; return the interpreter."""
    venv = bundle / "venv"
    python = venv / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--find-links"]
    subprocess.run([*install, str(bundle / "wheels"), "-r", str(bundle / "requirements.txt")], check=True)
    subprocess.run([str(python), "-m", "compileall", "-q", str(bundle / "lib")], check=True, env={})
    return python


def _measure(bundle: Path, python: Path, image: Path, repeats: int) -> dict[str, Any]:
    packages = next((bundle / "venv" / "lib").glob("python*/site-packages"))
    libraries = [path for path in packages.iterdir() if path.name.startswith(("numpy", "PIL", "pillow", "onnxruntime"))]
    command = [str(python), "-I", str(bundle / "classify"), str(image)]
    figures: dict[str, Any] = {"libraries installed, MB": sum(map(megabytes, libraries))}
    variants: dict[str, tuple[list[str], Callable[[], None]]] = {
        "no saved graph": ([*command, "--no-cache"], lambda: None),
        "saved graph": (command, lambda: None),
        "saved graph, files not in memory": (command, lambda: _evict(bundle)),
    }
    _first_answer(command)  # saves the graph
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for _ in range(repeats):  # alternately, because other work on the machine comes and goes
        for name, (arguments, before) in variants.items():
            before()
            measured[name].append(_first_answer(arguments))
    for name, runs in measured.items():
        figures[f"first answer, s ({name})"] = median(seconds for seconds, _ in runs)
        figures[f"fastest first answer, s ({name})"] = min(seconds for seconds, _ in runs)
        figures[f"CPU time, s ({name})"] = median(cpu for _, cpu in runs)
    for name, more in (("no saved graph", ["--no-cache"]), ("saved graph", [])):
        resident, peak = _watching_memory([str(python), "-I", str(bundle / "classify"), *more], image)
        figures[f"resident memory while watching, MB ({name})"] = resident
        figures[f"its peak, MB ({name})"] = peak
    return figures


def _watching_memory(command: list[str], image: Path) -> tuple[float, float]:
    """Return the resident memory of a process that watches a folder, after its first answer, and its peak."""
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([*command, "--watch", folder, "--existing"], stdout=subprocess.PIPE, env={}) as process,
    ):
        shutil.copy(image, folder)
        assert process.stdout is not None  # noqa: S101
        process.stdout.readline()
        status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        process.terminate()
        resident, peak = (int(status[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
        return resident, peak


def _first_answer(command: list[str]) -> tuple[float, float]:
    """Return the seconds until the first line, and the CPU time, of a process."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={})
    assert process.stdout is not None  # noqa: S101
    line = process.stdout.readline()
    seconds = time.perf_counter() - started
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or json_format.loads(line)["error"]:
        raise RuntimeError(f"{command} failed: {line!r}")
    process.stdout.close()
    return seconds, usage.ru_utime + usage.ru_stime


def _evict(folder: Path) -> None:
    """Ask the system to forget the folder's files, so that they are read from the disk again."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


if __name__ == "__main__":
    app()
