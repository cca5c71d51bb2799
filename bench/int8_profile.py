"""Time graphs in turn, and profile where ONNX Runtime spends the time of one."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime

from unfreeze.contract.model.manifest import INPUT
from unfreeze.contract.reporting import Reporter

_RUNS = 30
_AT_LEAST_IMAGES = 8  # in one timing


@dataclass(frozen=True, kw_only=True)
class Profiled:
    """Where the time of one graph is spent.

    Args:
        graph: its name.
        batch: the batch size.
        operators: microseconds by kind of operator.
        layers: microseconds of the convolutions and linear layers by kind, with their fused activations.
    """

    graph: str
    batch: int
    operators: dict[str, float]
    layers: dict[str, float]


def time_in_turn(
    graphs: Mapping[str, bytes], shape: tuple[int, ...], batches: Sequence[int], rounds: int, reporter: Reporter
) -> dict[str, dict[int, float]]:
    """Return the speed of graphs relative to the first, by name and batch size: the median of the rounds' ratios."""
    sessions = {name: _session(content) for name, content in graphs.items()}
    advance = reporter.track("timing in turn", len(batches) * rounds)
    found: dict[str, dict[int, float]] = {name: {} for name in graphs}
    for batch in batches:
        inputs = _inputs(batch, shape)
        seconds: dict[str, list[float]] = {name: [] for name in graphs}
        for number in range(rounds + 1):
            for name, session in sessions.items():
                started = time.process_time()
                for _ in range(max(1, _AT_LEAST_IMAGES // batch)):
                    session.run(None, inputs)
                if number:  # the first is the warm-up
                    seconds[name].append(time.process_time() - started)
            advance(1 if number else 0)
        baseline = next(iter(seconds.values()))
        for name, own in seconds.items():
            found[name][batch] = median(other / mine for other, mine in zip(baseline, own, strict=True))
    return found


def profile(graph: str, content: bytes, shape: tuple[int, ...], batch: int, kinds: Sequence[str]) -> Profiled:
    """Profile a graph with ONNX Runtime's profiler; its own overhead is some microseconds an operator.

    Args:
        graph: its name.
        content: of `model.onnx`.
        shape: height, width and channels of a prepared image.
        batch: the batch size.
        kinds: of the layers, in the order in which they run.
    """
    with tempfile.TemporaryDirectory() as folder:
        session, inputs = _session(content, folder), _inputs(batch, shape)
        for _ in range(_RUNS):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_bytes())
    seconds: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            seconds.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"])
    medians = {key: median(own) for key, own in seconds.items()}
    operators, layers = Counter[str](), Counter[str]()
    for (operator, _), own in medians.items():
        operators[operator] += own
    own = [time_ for (operator, _), time_ in medians.items() if operator in ("Conv", "QLinearConv", "FusedConv")]
    for kind, microseconds in zip(kinds, own, strict=False):
        layers[kind] += microseconds
    return Profiled(graph=graph, batch=batch, operators=dict(operators), layers=dict(layers))


def _session(content: bytes, profiles: str = "") -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if profiles:
        options.enable_profiling = True
        options.profile_file_prefix = f"{profiles}/profile"
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _inputs(batch: int, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {INPUT: np.random.default_rng(batch).integers(0, 256, (batch, *shape), np.uint8)}
