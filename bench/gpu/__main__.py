"""Benchmark of an NVIDIA GPU: runtimes, server, training, and the promises about them.

python -m bench.gpu

Needs no network, only the project's packages; parts that lack a package are listed at the end. See docs/gpu.md.
`--device cpu --quick` runs the same steps without a GPU.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import cyclopts
from rich.console import Console

from bench.gpu.machine import describe_machine, gpu_named
from bench.gpu.options import GpuOptions
from bench.gpu.part import Finding, Setting, run_part
from bench.gpu.report import Report
from unfreeze.console import REMARKS, print_json

# The parts in order, with their shares of the time.
_PARTS = {"models": 0.3, "raw": 0.2, "serve": 0.4, "tune": 0.25}
_OF_MODELS = ("raw", "serve")
_TESTS = {"tests": 0.35}


_WIDEST = 1000
_DEFAULTS = GpuOptions()


def main(options: Annotated[GpuOptions, cyclopts.Parameter(name="*")] = _DEFAULTS) -> None:
    """Run all parts, each in its own process; exit with 1 if a promise is broken or a part fails.

    Args:
        options: what to measure.
    """
    if options.device == "cuda" and not gpu_named()[0]:
        REMARKS.print("nvidia-smi finds no NVIDIA GPU; --device cpu --quick runs without one")
        sys.exit(1)
    with tempfile.TemporaryDirectory() as folder:
        findings = _measure(options, options.setting(Path(folder)))
    report = Report(machine=describe_machine(options.device), device=options.device, findings=findings)
    if options.json:
        print_json(report.document())
    else:
        Console(width=_WIDEST).print(report.table())  # no wrapping, also in a file
    sys.exit(report.exit_code)


def _measure(options: GpuOptions, setting: Setting) -> list[Finding]:
    until = time.monotonic() + options.seconds
    weights = (_TESTS if options.tests else {}) | _PARTS
    findings: list[Finding] = []
    while weights:
        left_s, all_weights, name = until - time.monotonic(), sum(weights.values()), next(iter(weights))
        limit_s = left_s * weights.pop(name) / all_weights
        if name in _OF_MODELS and not setting.models():
            continue  # the reason was recorded
        REMARKS.print(f"{name}: {limit_s:.0f} s limit")
        findings += run_part(name, setting, limit_s)
    return findings


if __name__ == "__main__":
    cyclopts.run(main)
