"""ONNX Runtime against OpenVINO on this CPU, in turn, and what `--device auto` chooses.

python -m bench.openvino
"""

import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
import numpy as np
from rich.table import Table

from bench.models import publish_random
from unfreeze.console import RESULTS, TerminalReporter, print_json
from unfreeze.contract.cache_folder import FOLDER_VARIABLE
from unfreeze.contract.cores import usable_cores
from unfreeze.contract.errors import ModelError
from unfreeze.contract.model.model_file import ModelFile, read_model
from unfreeze.serve.runtimes.auto import MARGIN, open_fastest
from unfreeze.serve.runtimes.base import Runtime, RuntimeOptions
from unfreeze.serve.runtimes.registry import cpu_runtimes, open_runtime

_WEIGHTS = {
    "squeezenet1_0": "squeezenet1_0-imagenet.pth",
    "timm/tf_efficientnet_lite0": "tf_efficientnet_lite0-imagenet.safetensors",
}
NETWORKS = ("squeezenet1_0", "mobilenet_v3_small", "timm/tf_efficientnet_lite0", "resnet18")


@dataclass(frozen=True, kw_only=True)
class Row:
    """The runtimes with one network and one batch size.

    Args:
        network: the backbone.
        precision: of the model file.
        batch: images in a batch.
        milliseconds: median time of a batch of each runtime.
        ratios: of each runtime but the first: how many times as fast as the first it is, the median over the rounds.
        differences: largest difference of a probability from the first runtime's.
        refused: runtimes whose answers are not accepted, with the reason.
        chosen: by `auto`, for batches of up to this size.
        is_fastest: whether no accepted runtime is faster than the chosen one by more than its margin.
    """

    network: str
    precision: str
    batch: int
    milliseconds: dict[str, float]
    ratios: dict[str, float]
    differences: dict[str, float]
    refused: dict[str, str]
    chosen: str
    is_fastest: bool


def main(
    *,
    networks: tuple[str, ...] = NETWORKS,
    weights: Path = Path("/work/shared/models"),
    precision: Literal["fp32", "fp16"] = "fp32",
    batches: tuple[int, ...] = (1, 8, 32),
    rounds: int = 7,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Measure all runtimes of the CPU.

    Args:
        networks: backbones; their heads are random.
        weights: folder of trained weights; networks for which it has none have random ones.
        precision: of the exported models.
        batches: batch sizes.
        rounds: in which each runtime executes batches for about a tenth of a second.
        json: print JSON instead of a table.
    """
    rows: list[Row] = []
    with TerminalReporter() as reporter, tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER_VARIABLE] = folder  # choices of earlier runs are not used
        for number, network in enumerate(networks):
            file = weights / _WEIGHTS.get(network, "none")
            trained = str(file) if file.is_file() else "none"
            repository = publish_random(network, Path(folder) / str(number), weights=trained, precision=precision)
            model = read_model(repository / "random" / "1" / "model.onnx")
            rows += _measured(network, model, batches, rounds)
            reporter.info(f"{network}: measured")
    if json:
        print_json([asdict(row) for row in rows])
    else:
        _print(rows)


def _measured(network: str, model: ModelFile, batches: Sequence[int], rounds: int) -> list[Row]:
    refused: dict[str, str] = {}
    with ExitStack() as stack:
        opened: dict[str, Runtime] = {}
        for spec in cpu_runtimes():
            try:
                opened[spec.name] = stack.enter_context(open_runtime(model, spec.name, RuntimeOptions()))
            except ModelError as error:
                refused[spec.name] = str(error)
        return [_row(network, model, opened, refused, batch, rounds) for batch in batches]


def _row(
    network: str, model: ModelFile, opened: Mapping[str, Runtime], refused: dict[str, str], batch: int, rounds: int
) -> Row:
    shape = batch, *model.manifest.preprocess.shape
    pixels = np.random.default_rng(batch).integers(0, 256, shape, np.uint8)
    answers = {name: runtime.run(pixels) for name, runtime in opened.items()}
    times = [{name: _seconds(runtime, pixels) for name, runtime in opened.items()} for _ in range(rounds)]
    first, *others = opened
    medians = {name: statistics.median(one[name] for one in times) for name in opened}
    chosen = open_fastest(model, RuntimeOptions(max_batch=batch))
    chosen.runtime.close()
    return Row(
        network=network,
        precision=model.manifest.precision,
        batch=batch,
        milliseconds={name: 1000 * seconds for name, seconds in medians.items()},
        ratios={name: statistics.median(one[first] / one[name] for one in times) for name in others},
        differences={name: float(np.abs(answers[name] - answers[first]).max()) for name in others},
        refused=refused,
        chosen=chosen.name,
        is_fastest=medians[chosen.name] <= MARGIN * min(medians.values()),
    )


def _seconds(runtime: Runtime, pixels: np.ndarray, at_least_s: float = 0.1) -> float:
    """Return the mean time of a batch."""
    started, count = time.perf_counter(), 0
    while not count or time.perf_counter() - started < at_least_s:
        runtime.run(pixels)
        count += 1
    return (time.perf_counter() - started) / count


def _print(rows: Sequence[Row]) -> None:
    title = f"times as fast as ONNX Runtime, {usable_cores()} threads; largest difference of a probability"
    table = Table("network", "precision", "batch", "cpu", "openvino", "openvino-bf16", "auto", title=title)
    for row in rows:
        table.add_row(
            row.network,
            row.precision,
            str(row.batch),
            f"{row.milliseconds['cpu']:.1f} ms",
            *(_cell(row, name) for name in ("openvino", "openvino-bf16")),
            row.chosen + ("" if row.is_fastest else " (not the fastest)"),
        )
    RESULTS.print(table)


def _cell(row: Row, name: str) -> str:
    return f"{row.ratios[name]:.2f}  {row.differences[name]:.0e}" if name in row.ratios else "refused"


if __name__ == "__main__":
    cyclopts.run(main)
