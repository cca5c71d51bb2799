"""Hold an exported graph against the network that it was made from."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import onnxruntime
import torch

from contract.arrays import Float32, UInt8
from contract.errors import ProofError
from contract.manifest import INPUT, Proof
from contract.preprocess import PreprocessSpec
from contract.reporting import Reporter
from export.graph import Served
from tune.dataset import Picture, Skipped
from tune.views import Views, load_views

BATCH_SIZES = (1, 2, 7)
_FEW = 14


def prove(
    model: bytes,
    served: Served,
    pictures: Sequence[Picture],
    spec: PreprocessSpec,
    tolerance: float,
    reporter: Reporter,
) -> Proof:
    """Run real pictures through ONNX Runtime and torch, in batches of several sizes.

    All pictures go through in the largest batch size, a few in the others.

    Args:
        model: the content of `model.onnx`.
        served: the network, in float32 on the CPU.
        pictures: validation pictures.
        spec: how they are prepared.
        tolerance: the largest difference of a probability that is let pass.
        reporter: shows progress.

    Returns:
        The differences found, all within the tolerance.

    Raises:
        ProofError: the model cannot run, a probability differs by more than the tolerance, or there is no picture to
            compare with.
    """
    session = _session(model)
    advance = reporter.track("proving the exported model equal", len(pictures))
    largest, same, seen = 0.0, 0, 0
    skipped: list[Skipped] = []
    loaded = load_views(pictures, Views(spec=spec), skipped)
    while chunk := [views for _, views in islice(loaded, max(BATCH_SIZES))]:
        batch = np.concatenate(chunk)
        expected = _torch(served, batch)
        for size in BATCH_SIZES if seen < _FEW else (max(BATCH_SIZES),):
            largest = float(np.maximum(largest, np.abs(_in_batches(session, batch, size) - expected).max()))
        same += int((_in_batches(session, batch, len(batch)).argmax(1) == expected.argmax(1)).sum())
        seen += len(batch)
        advance(len(batch))
    for item in skipped:
        reporter.say(f"{item.path} is left out of the proof: {item.reason}")
    if not seen:
        raise ProofError("there is no validation picture to prove the model with; say where the data are with --data")
    proof = Proof(
        pictures=seen,
        batch_sizes=BATCH_SIZES,
        largest_difference=largest,
        tolerance=tolerance,
        same_top1=same / seen,
    )
    if not largest <= tolerance:  # NaN does not pass either
        raise ProofError(
            f"the exported model is not what was trained: a probability differs by {largest:.2e}, more than "
            f"{tolerance:.0e}; nothing was published"
        )
    return proof


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common base of their own
        raise ProofError(f"ONNX Runtime cannot load the exported model: {error}; nothing was published") from error


def _in_batches(
    session: onnxruntime.InferenceSession, pixels: UInt8[np.ndarray, "n h w 3"], size: int
) -> Float32[np.ndarray, "n c"]:
    parts = [session.run(None, {INPUT: pixels[start : start + size]})[0] for start in range(0, len(pixels), size)]
    return np.concatenate(parts)


def _torch(served: Served, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n c"]:
    with torch.inference_mode():
        return served(torch.from_numpy(pixels)).numpy()
