"""What an NVIDIA GPU makes of this project: the runtimes, the server, training, and the promises about them.

python -m bench.gpu

needs no network, and no more than an environment with the project's packages; what is missing there is left out and
named in the end. See docs/gpu.md. `--device cpu --quick` runs the same without a GPU.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from rich.console import Console

from bench.gpu_machine import describe_machine, gpu_named
from bench.gpu_part import Finding, Setting, run_part
from bench.gpu_report import Report
from unfreeze.console import REMARKS, print_json

# The parts in their order, with the weights by which they share the time.
_PARTS = {"models": 0.3, "raw": 0.2, "serve": 0.4, "tune": 0.25}
_OF_MODELS = ("raw", "serve")
_TESTS = {"tests": 0.35}
_Names = Annotated[tuple[str, ...], cyclopts.Parameter(consume_multiple=True)]
_Numbers = Annotated[tuple[int, ...], cyclopts.Parameter(consume_multiple=True)]
_Flag = Annotated[bool, cyclopts.Parameter(negative="")]


@dataclass(frozen=True, kw_only=True)
class GpuOptions:
    """What to measure.

    Args:
        device: "cpu" measures the same without a GPU, and judges nothing.
        seconds: for everything; parts that would run over are shortened or left out.
        tests: run the tests marked `gpu` first.
        quick: small networks, few requests in flight and short measurements, where nothing else is said.
        backbones: whose models are served, by torchvision's names.
        tuned: those that are trained.
        precisions: of the models.
        batches: sizes for the raw runtime; the largest is the models' own.
        concurrency: requests in flight.
        images: folder of labeled images; without it, textures are drawn.
        each_s: the longest that one measurement may take, in seconds.
        json: print JSON instead of a table.
    """

    device: Literal["cuda", "cpu"] = "cuda"
    seconds: float = 400.0
    tests: _Flag = False
    quick: _Flag = False
    backbones: _Names = ()
    tuned: _Names = ()
    precisions: _Names = ("fp32", "fp16", "int8")
    batches: _Numbers = ()
    concurrency: _Numbers = ()
    images: Path | None = None
    each_s: float | None = None
    json: _Flag = False

    def setting(self, folder: Path) -> Setting:
        """Fill in what was not said.

        Args:
            folder: takes images, models and findings.
        """
        quick = self.quick
        return Setting(
            folder=str(folder),
            device=self.device,
            backbones=self.backbones or (("mobilenet_v3_small", "resnet18") if quick else _BACKBONES),
            tuned=self.tuned or (("resnet18",) if quick else _TUNED),
            precisions=self.precisions,
            batches=self.batches or ((1, 8) if quick else (1, 8, 32, 64, 128)),
            concurrency=self.concurrency or ((1, 4) if quick else (1, 16, 64, 256)),
            images="" if self.images is None else str(self.images.absolute()),
            each_s=self.each_s or (1.0 if quick else 2.0),
            drawn=4 if quick else 6,
            trained=16 if quick else 1024,
            train_batch=8 if quick else 64,
        )


_WIDEST = 1000
_BACKBONES, _TUNED = ("resnet50", "mobilenet_v3_small"), ("resnet50", "vgg16")


def main(options: Annotated[GpuOptions, cyclopts.Parameter(name="*")] = GpuOptions()) -> None:
    """Measure all parts, each in a process of its own, and exit with 1 where a promise is broken or a part fails.

    Args:
        options: what to measure.
    """
    if options.device == "cuda" and not gpu_named()[0]:
        REMARKS.print("there is no NVIDIA GPU here that nvidia-smi can name; --device cpu --quick does without one")
        sys.exit(1)
    with tempfile.TemporaryDirectory() as folder:
        findings = _measure(options, options.setting(Path(folder)))
    report = Report(machine=describe_machine(options.device), device=options.device, findings=findings)
    if options.json:
        print_json(report.document())
    else:
        Console(width=_WIDEST).print(report.table())  # lines stay whole, also in a file
    sys.exit(report.exit_code)


def _measure(options: GpuOptions, setting: Setting) -> list[Finding]:
    until = time.monotonic() + options.seconds
    weights = (_TESTS if options.tests else {}) | _PARTS
    findings: list[Finding] = []
    while weights:
        left_s, all_weights, name = until - time.monotonic(), sum(weights.values()), next(iter(weights))
        limit_s = left_s * weights.pop(name) / all_weights
        if name in _OF_MODELS and not setting.models():
            continue  # why there are none was told
        REMARKS.print(f"{name}: {limit_s:.0f} s at most")
        findings += run_part(name, setting, limit_s)
    return findings


if __name__ == "__main__":
    cyclopts.run(main)
