"""What the report needs the network for: where it looked, and how long an image takes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from unfreeze.contract.arrays import Float32
from unfreeze.contract.errors import ImageError, UnfreezeError
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare
from unfreeze.report.saliency import saliency_maps
from unfreeze.tune.artifacts.checkpoint import load_run

_WARM_UP, _ROUNDS = 3, 11


@dataclass(frozen=True, kw_only=True)
class NetworkResults:
    """What the tuned network computed for a report.

    Args:
        saliency: maps of where it looked, by the path of the image; without images that cannot be read, and empty if
            the network's activations have no places.
        milliseconds: median time of one prepared image in PyTorch, in float32 on the CPU.
        threads: of PyTorch.
        spec: how images are prepared.
    """

    saliency: dict[Path, Float32[np.ndarray, "y x"]]
    milliseconds: float
    threads: int
    spec: PreprocessSpec


def run_network(folder: Path, images: Sequence[tuple[Path, int]]) -> NetworkResults | None:
    """Run the tuned network for a report; None if it cannot be loaded, for example because its package is missing.

    Args:
        folder: of the run.
        images: paths, and the class for which the network looked at each.
    """
    try:
        network, facts = load_run(folder)
    except UnfreezeError:
        return None
    prepared = {path: pixels for path, _ in images if (pixels := _prepared(path, facts.preprocess)) is not None}
    wanted = {path: label for path, label in images if path in prepared}
    pixels = np.stack(list(prepared.values())) if prepared else np.empty((0, *facts.preprocess.shape), np.uint8)
    maps = saliency_maps(network, pixels, [wanted[path] for path in prepared])
    one = torch.zeros(1, *facts.preprocess.shape, dtype=torch.uint8)
    with torch.inference_mode():
        times = []
        for _ in range(_WARM_UP + _ROUNDS):
            started = time.perf_counter()
            network(one)
            times.append(time.perf_counter() - started)
    return NetworkResults(
        saliency=dict(zip(prepared, maps, strict=True)) if maps else {},
        milliseconds=1000 * median(times[_WARM_UP:]),
        threads=torch.get_num_threads(),
        spec=facts.preprocess,
    )


def _prepared(path: Path, spec: PreprocessSpec) -> np.ndarray | None:
    try:
        return prepare(path.read_bytes(), spec)
    except (ImageError, OSError):
        return None
