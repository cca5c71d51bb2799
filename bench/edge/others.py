"""Other runtimes of devices: one network as ONNX, LiteRT and ExecuTorch files, one core, one image at a time.

python -m bench.edge.others
python -m bench.edge.others --backbones mobilenet_v3_small --rounds 50

Runtimes that cannot be imported are left out. In an environment of its own, since they pin versions of torch:
pip install 'unfreeze[tune,cpu,timm]' litert-torch executorch

All run the network alone, on the same float32 input, in turn. ONNX Runtime runs the graph as `torch.onnx` writes it.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import cyclopts
import numpy as np
import torch
from rich.table import Table

from unfreeze.console import REMARKS, RESULTS, print_json
from unfreeze.contract.errors import first_line
from unfreeze.tune.backbones.weights import load_pretrained

Network = Callable[[np.ndarray], np.ndarray]
_SIDE = 224


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A runtime and a network.

    Args:
        backbone: of the network.
        runtime: its name.
        megabytes: size of the file.
        load_ms: time to load it.
        image_ms: median time of one image.
        difference: largest difference from torch's output, relative to its largest value.
    """

    backbone: str
    runtime: str
    megabytes: float
    load_ms: float
    image_ms: float
    difference: float


def main(
    *,
    backbones: tuple[str, ...] = ("mobilenet_v3_small", "timm/tf_efficientnet_lite0"),
    rounds: int = 100,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Convert and compare.

    Args:
        backbones: networks, with random weights.
        rounds: measurements of each, in turn; medians are shown.
        json: print JSON instead of a table.
    """
    measured = [one for backbone in backbones for one in compare(backbone, rounds)]
    if json:
        print_json([asdict(one) for one in measured])
        return
    table = Table("backbone", "runtime", "file, MB", "load, ms", "image, ms", "difference")
    for one in measured:
        numbers = f"{one.megabytes:.1f}", f"{one.load_ms:.0f}", f"{one.image_ms:.2f}", f"{one.difference:.1g}"
        table.add_row(one.backbone, one.runtime, *numbers)
    RESULTS.print(table)


def compare(backbone: str, rounds: int) -> list[Measured]:
    """Measure all runtimes that can be imported on one core."""
    torch.manual_seed(0)
    model = load_pretrained(backbone, "none").model.eval()
    pixels = torch.rand(1, 3, _SIDE, _SIDE)
    with torch.no_grad():
        expected = model(pixels).numpy()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    loaded: dict[str, tuple[float, float, Network]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (convert, load) in RUNTIMES.items():
            try:
                file = Path(folder) / name.replace(" ", "-")
                convert(model, pixels, file)
                started = time.perf_counter()
                network = load(file)
            except ImportError as error:
                REMARKS.print(f"{name} is left out: {first_line(error)}", markup=False)
                continue
            loaded[name] = file.stat().st_size / 1e6, 1000 * (time.perf_counter() - started), network
        times = _in_turn({name: network for name, (_, _, network) in loaded.items()}, pixels.numpy(), rounds)
    return [
        Measured(
            backbone=backbone,
            runtime=name,
            megabytes=megabytes,
            load_ms=load_ms,
            image_ms=times[name],
            difference=float(np.abs(network(pixels.numpy()) - expected).max() / np.abs(expected).max()),
        )
        for name, (megabytes, load_ms, network) in loaded.items()
    ]


def _in_turn(networks: dict[str, Network], pixels: np.ndarray, rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(rounds):
        for name, network in networks.items():
            started = time.perf_counter()
            network(pixels)
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: median(found[len(found) // 5 :]) for name, found in times.items()}


def _to_onnx(model: torch.nn.Module, pixels: torch.Tensor, file: Path) -> None:
    torch.onnx.export(model, (pixels,), file, dynamo=True, external_data=False, verbose=False)


def _load_onnx(file: Path) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: np.asarray(session.run(None, {name: pixels})[0])


def _to_litert(model: torch.nn.Module, pixels: torch.Tensor, file: Path) -> None:
    import litert_torch

    litert_torch.convert(model, (pixels,)).export(str(file))


def _load_litert(file: Path) -> Network:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(file), num_threads=1).get_signature_runner()
    (name,) = runner.get_input_details()
    return lambda pixels: np.asarray(next(iter(runner(**{name: pixels}).values())))


def _to_executorch(model: torch.nn.Module, pixels: torch.Tensor, file: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    exported = torch.export.export(model, (pixels,))
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    file.write_bytes(lowered.to_executorch().buffer)


def _load_executorch(file: Path) -> Network:
    from executorch.runtime import Runtime

    method: Any = Runtime.get().load_program(file).load_method("forward")
    return lambda pixels: np.asarray(method.execute([torch.from_numpy(pixels)])[0])


RUNTIMES: dict[str, tuple[Callable[[torch.nn.Module, torch.Tensor, Path], None], Callable[[Path], Network]]] = {
    "ONNX Runtime": (_to_onnx, _load_onnx),
    "LiteRT": (_to_litert, _load_litert),
    "ExecuTorch, XNNPACK": (_to_executorch, _load_executorch),
}


if __name__ == "__main__":
    cyclopts.run(main)
