"""What int8 costs and gains by kind of layer: accuracy, speed, and where ONNX Runtime spends the time.

python -m bench.int8_layers --run RUN
python -m bench.int8_layers DATA --backbone mobilenet_v3_small --weights builtin

Times are processor time of one thread, the graphs in turn, medians: other work on the machine then matters little.
"""

import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import cyclopts
import numpy as np
import onnx
from rich.table import Table

from bench.int8_profile import Profiled, profile, time_in_turn
from unfreeze.console import RESULTS, TerminalReporter, print_json
from unfreeze.contract.errors import OptionsError
from unfreeze.contract.reporting import Reporter
from unfreeze.export.graph import CalibratedNetwork, onnx_from_network
from unfreeze.export.prepared import PreparedImages, prepare_images
from unfreeze.export.quantize import Quantizer
from unfreeze.export.session import Session
from unfreeze.tune.artifacts.checkpoint import load_run
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

_BATCHES = (1, 8)
_FLOAT, _PLAIN, _EXPORTED = "fp32", "int8, all layers, hard-swish in float", "int8 as exported"
_LAYERS = ("Conv", "Gemm", "MatMul")
_PROVEN_AT_ONCE = 7


@dataclass(frozen=True, kw_only=True)
class Row:
    """One graph.

    Args:
        graph: what is quantized.
        layers: number of layers in int8.
        lost_points: top-1 accuracy lost, in percentage points.
        same_top1: share of the images with fp32's answer.
        divergence: mean divergence of the probabilities from fp32's, in nats.
        largest_difference: of a probability from fp32's.
        speeds: times fp32's speed, by batch size.
    """

    graph: str
    layers: int
    lost_points: float
    same_top1: float
    divergence: float
    largest_difference: float
    speeds: dict[int, float]


def main(
    data: Path | None = None,
    *,
    run: Path | None = None,
    backbone: str = "mobilenet_v3_small",
    weights: str = "builtin",
    rounds: int = 15,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Quantize each kind of layer alone, and all but that kind.

    Args:
        data: folder of labeled images to tune on; not needed with --run.
        run: a finished run.
        backbone: of the run that is made from the data.
        weights: of the run that is made from the data.
        rounds: how often each graph is timed.
        json: print JSON instead of tables.
    """
    with TerminalReporter() as reporter, tempfile.TemporaryDirectory() as folder:
        if run is None:
            if data is None:
                raise OptionsError("give a folder of images, or --run")
            run = Path(folder) / "run"
            fine_tune(data, run, TuneOptions(backbone=backbone, weights=weights), reporter)
        rows, profiles = _measure(run, Path(folder), rounds, reporter)
    if json:
        print_json({"rows": [asdict(row) for row in rows], "profiles": [asdict(one) for one in profiles]})
        return
    RESULTS.print(_table(rows))
    RESULTS.print(_profile_table(profiles, "operators"))
    RESULTS.print(_profile_table(profiles, "layers"))


def _measure(run: Path, folder: Path, rounds: int, reporter: Reporter) -> tuple[list[Row], list[Profiled]]:
    network, facts = load_run(run)
    images = prepare_images(facts.images(), facts.preprocess, "preparing the validation images", reporter)
    pixels = prepare_images(facts.images(calibration=True), facts.preprocess, "calibration images", reporter).pixels
    floats = onnx_from_network(CalibratedNetwork(network, facts.temperature, facts.link), facts.preprocess.shape)
    quantizers = {}
    for name, plain in ((_PLAIN, True), (_EXPORTED, False)):
        (folder / str(plain)).mkdir()
        quantizers[name] = Quantizer(floats, pixels, "cpu", folder / str(plain), plain=plain)
    kinds = kinds_of_layers(onnx.load(folder / "True" / "float.onnx").graph)
    graphs = {_FLOAT: floats} | {name: one.graph() for name, one in quantizers.items()}
    layers = {_FLOAT: 0} | {name: len(one.layers) for name, one in quantizers.items()}
    exported = set(quantizers[_EXPORTED].layers)
    for kind, count in Counter(kinds.values()).items():
        others = [name for name, other in kinds.items() if other != kind]
        graphs[f"only {kind}"] = quantizers[_PLAIN].graph(others, between=False)
        layers[f"only {kind}"] = count
        members = exported.intersection(name for name, other in kinds.items() if other == kind)
        if members:
            graphs[f"all but {kind}"] = quantizers[_EXPORTED].graph(members)
            layers[f"all but {kind}"] = len(exported) - len(members)
    contents = {name: graph.SerializeToString() for name, graph in graphs.items()}
    speeds = time_in_turn(contents, facts.preprocess.shape, _BATCHES, rounds, reporter)
    answers = {name: _answers(content, images) for name, content in contents.items()}
    rows = [_row(name, layers[name], answers, images, speeds[name]) for name in graphs]
    names = (_FLOAT, _PLAIN, _EXPORTED)
    order = [kinds[node] for node in kinds]
    profiles = [
        profile(name, contents[name], facts.preprocess.shape, batch, order) for batch in _BATCHES for name in names
    ]
    return rows, profiles


def kinds_of_layers(graph: onnx.GraphProto) -> dict[str, str]:
    """Return the kind of each layer but the head, by its name, in order from the input.

    Args:
        graph: the float graph.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    squeezed: set[str] = set()
    found: dict[str, str] = {}
    for node in graph.node:
        is_squeezed = node.op_type == "GlobalAveragePool" or (bool(node.input) and node.input[0] in squeezed)
        if is_squeezed and node.op_type != "Mul":
            squeezed.update(node.output)
        if node.op_type in _LAYERS:
            found[node.name] = (
                "squeeze-and-excitation" if is_squeezed else _kind(shapes.get(node.input[1], ()), not found)
            )
    found.popitem()  # the head
    return found


def _kind(shape: tuple[int, ...], is_first: bool) -> str:  # noqa: FBT001
    if is_first:
        return "first convolution"
    if len(shape) != 4:  # noqa: PLR2004 - output and input channels, height, width
        return "linear"
    size = f"{shape[2]}x{shape[3]}"
    return f"depthwise {size}" if shape[1] == 1 else size


def _answers(content: bytes, images: PreparedImages) -> np.ndarray:
    session, pixels = Session(content, "int8"), images.pixels
    parts = [session.run(pixels[at : at + _PROVEN_AT_ONCE]) for at in range(0, len(pixels), _PROVEN_AT_ONCE)]
    return np.concatenate(parts)


def _row(
    name: str, layers: int, answers: dict[str, np.ndarray], images: PreparedImages, speeds: dict[int, float]
) -> Row:
    expected, found = answers[_FLOAT], answers[name]
    hits = [float((one.argmax(1) == images.labels).mean()) for one in (expected, found)]
    tiny = np.finfo(np.float32).tiny
    divergence = (expected * np.log(np.maximum(expected, tiny) / np.maximum(found, tiny))).sum(1).mean()
    return Row(
        graph=name,
        layers=layers,
        lost_points=round(100 * (hits[0] - hits[1]), 2),
        same_top1=round(float((expected.argmax(1) == found.argmax(1)).mean()), 4),
        divergence=round(float(divergence), 5),
        largest_difference=round(float(np.abs(expected - found).max()), 3),
        speeds={batch: round(speed, 2) for batch, speed in speeds.items()},
    )


def _table(rows: list[Row]) -> Table:
    columns = ["layers", "points lost", "same top-1", "divergence", "largest difference"]
    table = Table("quantized", *columns, *(f"times fp32, batch {batch}" for batch in _BATCHES))
    for row in rows:
        figures = [row.layers, row.lost_points, row.same_top1, row.divergence, row.largest_difference]
        table.add_row(row.graph, *map(str, figures), *(f"{row.speeds[batch]:.2f}" for batch in _BATCHES))
    return table


def _profile_table(profiles: list[Profiled], what: str) -> Table:
    """Return the microseconds of each operator, or of each kind of layer."""
    found: list[dict[str, Any]] = [getattr(one, what) for one in profiles]
    table = Table(f"microseconds by {what}", *(f"{one.graph}, batch {one.batch}" for one in profiles))
    names = sorted({name for one in found for name in one}, key=lambda name: -median(one.get(name, 0) for one in found))
    for name in (*names, "together"):
        cells = [sum(one.values()) if name == "together" else one.get(name, 0) for one in found]
        table.add_row(name, *(f"{cell:.0f}" for cell in cells))
    return table


if __name__ == "__main__":
    cyclopts.run(main)
