"""Train the trained part of a quantized graph to give the float network's probabilities."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import shape_inference
from torch import Tensor

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.cores import usable_cores
from unfreeze.contract.model.manifest import INPUT
from unfreeze.contract.reporting import Reporter
from unfreeze.export.finish.trainable import TrainableGraph
from unfreeze.tune.training.optimization import batches_per_epoch, warmup_cosine

_BATCH = 16
_LEARNING_RATE = 3e-4  # of a weight, as a share of its tensor's root mean square
_SCALE_LEARNING_RATE = 3e-3  # of the logarithm of a scale
_WARM_UP = 0.1  # share of the steps
_MAX_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class FinishOptions:
    """How to finish a quantized graph.

    Args:
        epochs: passes over the images.
        seed: of the order of the images.
        max_seconds: training ends after this time, with what was learned until then.
    """

    epochs: int
    seed: int
    max_seconds: float = _MAX_SECONDS


def finish(
    graph: TrainableGraph,
    model: onnx.ModelProto,
    pixels: UInt8[np.ndarray, "n h w 3"],
    targets: Float32[np.ndarray, "n c"],
    options: FinishOptions,
    reporter: Reporter,
) -> onnx.ModelProto:
    """Train the graph on the float network's probabilities (Hinton et al. 2015, arXiv:1503.02531).

    Labels are not used: the int8 graph must give the float network's answers.

    Args:
        graph: made from the model; trained in place.
        model: the quantized graph, whose frozen part computes the inputs.
        pixels: prepared training images.
        targets: the float network's probabilities of them.
        options: number of epochs, seed, time limit.
        reporter: shows progress.

    Returns:
        The quantized graph with learned weights and scales.
    """
    frozen = _frozen_part(model, graph.border)
    steps = options.epochs * batches_per_epoch(len(pixels), _BATCH)
    optimizer = torch.optim.Adam(
        [
            *(
                {"params": [one], "lr": _LEARNING_RATE * float(one.detach().square().mean().sqrt())}
                for one in graph.weights
            ),
            {"params": list(graph.log_factors), "lr": _SCALE_LEARNING_RATE},
        ]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, max(1, round(_WARM_UP * steps)), steps)
    )
    generator = torch.Generator().manual_seed(options.seed)
    advance, deadline = reporter.track("finishing int8", steps), time.monotonic() + options.max_seconds
    for _ in range(options.epochs):
        for rows in torch.randperm(len(pixels), generator=generator).tensor_split(steps // options.epochs):
            if time.monotonic() > deadline:
                reporter.info(f"finishing stopped after {options.max_seconds:.0f} s")
                return graph.to_model()
            order = rows.sort().values.numpy()
            logs = graph(frozen(np.ascontiguousarray(pixels[order])))
            loss = torch.nn.functional.kl_div(logs, torch.from_numpy(targets[order]), reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(1)
    return graph.to_model()


def _frozen_part(model: onnx.ModelProto, border: Collection[str]) -> Callable[[np.ndarray], Mapping[str, Tensor]]:
    """Return a function that computes the tensors of the border from prepared images, with ONNX Runtime."""
    if set(border) == {INPUT}:
        return lambda pixels: {INPUT: torch.from_numpy(pixels)}
    part = onnx.ModelProto()
    part.CopyFrom(shape_inference.infer_shapes(model))
    values = {value.name: value for value in part.graph.value_info}
    wanted = [name for name in border if name != INPUT]
    del part.graph.output[:]
    part.graph.output.extend(values[name] for name in wanted)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = usable_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(pixels: np.ndarray) -> Mapping[str, Tensor]:
        found = session.run(wanted, {INPUT: pixels})
        values = {name: torch.from_numpy(one) for name, one in zip(wanted, found, strict=True)}
        return values | ({INPUT: torch.from_numpy(pixels)} if INPUT in border else {})

    return run
