"""What models do in the arm64 system, compared with this machine."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.edge.kernels import executed_kernels
from bench.edge.processors import PROCESSORS, Processor
from bench.edge.system import PACKAGES, PYTHON, WORK, ArmSystem
from bench.sizes import megabytes
from unfreeze.device.bundle import BundleOptions, write_bundle
from unfreeze.serve.client.local import LocalClassifier

_TYPICAL, _CLOSE = PROCESSORS[1], 1e-3


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A model on both machines.

    Args:
        model: its name.
        golden: number of golden images that passed in the arm64 system.
        golden_difference: their largest difference from those of the export, in nats.
        golden_tolerance: what passes.
        images: number of images that both machines have classified.
        same_label: number of images with the same label.
        largest_difference: of a probability.
        changed_label_margin: largest difference between the two highest probabilities of an image whose label differs.
        peak_mb: resident memory after one image, with the emulator's.
    """

    model: str
    golden: int
    golden_difference: float
    golden_tolerance: float
    images: int
    same_label: int
    largest_difference: float
    changed_label_margin: float
    peak_mb: float


def put(system: ArmSystem, models: Iterable[Path], images: Sequence[Path]) -> None:
    """Copy the program, models and images into the system."""
    shutil.rmtree(system.work, ignore_errors=True)
    (system.work / "images").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("program.py"), system.work)
    for model in models:
        shutil.copytree(model.parent, system.work / model.parents[1].name)
    for image in images:
        shutil.copy(image, system.work / "images" / image.name)


def compare(system: ArmSystem, models: Sequence[Path]) -> list[Compared]:
    """Verify models in the system, and classify all images there and here."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda model: _compare(system, model), models))


@dataclass(frozen=True, kw_only=True)
class BundleRun:
    """A bundle in the arm64 system.

    Args:
        model: its name.
        wheels_mb: size of the wheels of the three libraries for aarch64.
        bundle_mb: size of the bundle with these wheels.
        installed_mb: size of the installed libraries.
        same_answer: whether `classify` gives the label and, within 0.001, the score of this machine.
        peak_mb: resident memory after one image, with the emulator's.
    """

    model: str
    wheels_mb: float
    bundle_mb: float
    installed_mb: float
    same_answer: bool
    peak_mb: float


def run_bundle(system: ArmSystem, model: Path) -> BundleRun:
    """Write a bundle for aarch64, and run its `classify` in the system."""
    folder = system.work / "app"
    options = BundleOptions(platform="linux-aarch64", with_wheels=True, python=PYTHON)
    write_bundle(model.parents[1], folder, options)
    found = _run(system, _TYPICAL, "bundle", f"{WORK}/app", _first_image(system))
    with LocalClassifier(model) as classifier:
        here = classifier.predict([min((system.work / "images").iterdir())])[0][0]
    there = found["answer"]
    return BundleRun(
        model=model.parents[1].name,
        wheels_mb=megabytes(folder / "wheels"),
        bundle_mb=megabytes(folder),
        installed_mb=megabytes(system.root / PACKAGES[1:]),
        same_answer=there["label"] == here.label and abs(there["score"] - here.score) < _CLOSE,
        peak_mb=found["peak_mb"],
    )


def kernels(system: ArmSystem, model: Path, processor: Processor) -> Counter[str]:
    """Return the vector instructions that ONNX Runtime executes for one image."""
    name = model.parents[1].name
    trace = system.work / f"{name}-{processor.name}.log"
    try:
        found = _run(system, processor, "one", _inside(model), _first_image(system), trace=trace)
        return executed_kernels(trace, found["runtime"])
    finally:
        trace.unlink(missing_ok=True)


def _compare(system: ArmSystem, model: Path) -> Compared:
    name = model.parents[1].name
    images = sorted((system.work / "images").iterdir())
    verified = _run(system, _TYPICAL, "verify", _inside(model))
    one = _run(system, _TYPICAL, "one", _inside(model), _first_image(system))
    _run(system, _TYPICAL, "answers", _inside(model), f"{WORK}/images", f"{WORK}/{name}.npy")
    there = np.load(system.work / f"{name}.npy")
    with LocalClassifier(model) as classifier:
        here = classifier.probabilities(images)
    changed = there.argmax(1) != here.argmax(1)
    margins = np.diff(np.sort(here, axis=1)[:, -2:], axis=1)[:, 0]
    return Compared(
        model=name,
        golden=verified["golden"],
        golden_difference=verified["difference"],
        golden_tolerance=verified["tolerance"],
        images=len(images),
        same_label=int((~changed).sum()),
        largest_difference=float(np.abs(there - here).max()),
        changed_label_margin=float(margins[changed].max(initial=0.0)),
        peak_mb=one["peak_mb"],
    )


def _run(system: ArmSystem, processor: Processor, *arguments: str, trace: Path | None = None) -> dict[str, Any]:
    done = system.python(f"{WORK}/program.py", *arguments, processor=processor, trace=trace)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _inside(model: Path) -> str:
    return f"{WORK}/{model.parents[1].name}/{model.name}"


def _first_image(system: ArmSystem) -> str:
    return f"{WORK}/images/{min(file.name for file in (system.work / 'images').iterdir())}"
