"""What ONNX Runtime's session options cost a small process: time to open, time of an image, resident memory.

python -m bench.session_options models/flowers/1/model.onnx
"""

import json as json_format
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

app = App(help=__doc__)
_IMAGES = 40
_VARIANTS = (
    "path",
    "bytes",
    "no arena",
    "no pattern",
    "no arena, no pattern",
    "no prepacking",
    "basic optimizations",
    "two threads",
    "two threads, spinning",
    "saved onnx",
    "saved onnx, no arena, no pattern",
    "saved ort",
    "saved ort, mapped",
)


@app.default
def run(model: Path, *, repeats: int = 5, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Open a model in a process for each variant, in turn, and report medians.

    Args:
        model: a `model.onnx`.
        repeats: processes for each variant.
        json: print JSON instead of a table.
    """
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in _VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            for name in _VARIANTS:
                command = [sys.executable, "-m", "bench.session_options", "child", str(model), folder, name]
                measured[name].append(
                    json_format.loads(subprocess.run(command, capture_output=True, check=True).stdout)
                )
    medians = {name: {key: median(one[key] for one in runs) for key in runs[0]} for name, runs in measured.items()}
    if json:
        print(json_format.dumps(medians))  # noqa: T201
        return
    table = Table("variant", "open, ms", "image, ms", "resident, MB")
    for name, one in medians.items():
        table.add_row(name, *(f"{one[key]:.1f}" for key in ("open_ms", "image_ms", "resident_mb")))
    Console().print(table)


@app.command(show=False)
def child(model: Path, folder: Path, variant: str) -> None:
    """Measure one variant in this process, after saving its graph in another one.

    Args:
        model: a `model.onnx`.
        folder: for saved graphs.
        variant: one of the variants.
    """
    kind = next((kind for kind in ("onnx", "ort") if variant.startswith(f"saved {kind}")), "")
    saved = folder / f"graph.{kind}"
    if kind and not saved.exists():
        save = [sys.executable, "-m", "bench.session_options", "save", str(model), str(saved)]
        subprocess.run(save, check=True)
    print(json_format.dumps(_measure(saved if kind else model, variant)))  # noqa: T201


@app.command(show=False)
def save(model: Path, graph: Path) -> None:
    """Save the optimized graph.

    Args:
        model: a `model.onnx`.
        graph: where to save it; the suffix is the format.
    """
    import onnxruntime

    options = _options("")
    options.optimized_model_filepath = str(graph)
    if graph.suffix == ".ort":
        options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def _measure(graph: Path, variant: str) -> dict[str, float]:
    import onnxruntime

    options = _options(variant)
    started = time.perf_counter()
    source = graph.read_bytes() if variant == "bytes" else str(graph)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    opened = time.perf_counter()
    (tensor,) = session.get_inputs()
    pixels = np.zeros((1, *tensor.shape[1:]), np.uint8)
    times = []
    for _ in range(_IMAGES):
        begin = time.perf_counter()
        session.run(None, {tensor.name: pixels})
        times.append(time.perf_counter() - begin)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    resident = int(status["VmRSS"].split()[0]) * 1024 / 1e6
    return {"open_ms": 1000 * (opened - started), "image_ms": 1000 * median(times), "resident_mb": resident}


def _options(variant: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2 if "two threads" in variant else 1
    options.enable_cpu_mem_arena = "no arena" not in variant
    options.enable_mem_pattern = "no pattern" not in variant
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int("spinning" in variant)))
    options.add_session_config_entry("session.disable_prepacking", str(int("no prepacking" in variant)))
    levels = onnxruntime.GraphOptimizationLevel
    if "basic" in variant:
        options.graph_optimization_level = levels.ORT_ENABLE_BASIC
    if "saved" in variant:
        options.graph_optimization_level = levels.ORT_DISABLE_ALL
    if "mapped" in variant:
        options.add_session_config_entry("session.use_memory_mapped_ort_model", "1")
    return options


if __name__ == "__main__":
    app()
