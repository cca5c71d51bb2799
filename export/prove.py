"""Hold an exported graph against the network that it was made from."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import onnx
import torch

from unfreeze.contract.arrays import Float32
from unfreeze.contract.errors import ProofError
from unfreeze.contract.model.manifest import Proof
from unfreeze.contract.reporting import Reporter
from unfreeze.export.graph import Served
from unfreeze.export.prepared import Prepared
from unfreeze.export.session import Session

BATCH_SIZES = (1, 2, 7)
_TORCH_BATCH = 8
_FEW = 14
_NO_NUMBER = 2.0  # what a difference of no number counts as: probabilities differ by 1 at most


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the trained network answers to the validation images.

    Args:
        images: prepared.
        probabilities: torch's, in float32 [N, C].
        batch_sizes: that every graph has to run in.
    """

    images: Prepared
    probabilities: Float32[np.ndarray, "n c"]
    batch_sizes: tuple[int, ...]

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy of the trained network, 0 to 1."""
        return float((self.probabilities.argmax(1) == self.images.labels).mean())


def expect(served: Served, images: Prepared, max_batch: int, reporter: Reporter) -> Expected:
    """Let torch answer.

    Args:
        served: the network, in float32 on the CPU.
        images: to classify.
        max_batch: the largest batch that a graph is to be served with.
        reporter: shows progress.
    """
    count = len(images.labels)
    advance = reporter.track("asking the trained network", count)

    def answer(start: int) -> np.ndarray:
        batch = torch.from_numpy(np.array(images.pixels[start : start + _TORCH_BATCH]))
        with torch.inference_mode():
            probabilities = served(batch).numpy()
        advance(len(batch))
        return probabilities

    with _one_thread_a_batch() as pool:
        parts = list(pool.map(answer, range(0, count, _TORCH_BATCH)))
    sizes = tuple(sorted({size for size in (*BATCH_SIZES, max_batch) if size <= max_batch}))
    return Expected(images=images, probabilities=np.concatenate(parts), batch_sizes=sizes)


@contextmanager
def _one_thread_a_batch() -> Iterator[ThreadPoolExecutor]:
    """Give a thread to each batch: how a sum is rounded depends on how many share it, and proofs are not to."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(before) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def prove(model: bytes, precision: str, expected: Expected, tolerance: float, reporter: Reporter) -> Proof:
    """Run all validation images through ONNX Runtime, and a few in batches of every size.

    Args:
        model: the content of `model.onnx`.
        precision: of its arithmetic.
        expected: what torch answered.
        tolerance: the largest difference of a probability that will be let pass; noted, and judged by `check_proof`.
        reporter: shows progress.

    Raises:
        ProofError: the model cannot run.
    """
    session, pixels = Session(model, precision), expected.images.pixels
    advance, parts = reporter.track("proving the exported graph equal", len(pixels)), []
    for start in range(0, len(pixels), max(BATCH_SIZES)):
        parts.append(session.run(pixels[start : start + max(BATCH_SIZES)]))
        advance(len(parts[-1]))
    answers = np.concatenate(parts)
    differences = [float(np.abs(answers - expected.probabilities).max())]
    for size in expected.batch_sizes:
        few = np.resize(pixels[:_FEW], (max(size, min(_FEW, len(pixels))), *pixels.shape[1:]))
        again = np.concatenate([session.run(few[start : start + size]) for start in range(0, len(few), size)])
        wanted = np.resize(expected.probabilities[:_FEW], (len(few), answers.shape[1]))
        differences.append(float(np.abs(again - wanted).max()))
    first = answers.argmax(1)
    return Proof(
        images=len(pixels),
        batch_sizes=expected.batch_sizes,
        largest_difference=float(np.nan_to_num(np.max(differences), nan=_NO_NUMBER)),
        tolerance=tolerance,
        same_top1=float((first == expected.probabilities.argmax(1)).mean()),
        accuracy=float((first == expected.images.labels).mean()),
        trained_accuracy=expected.accuracy,
    )


def drop(proof: Proof) -> float:
    """Give how many points of top-1 accuracy were lost; below 0 where some were won."""
    return 100 * (proof.trained_accuracy - proof.accuracy)


def check_proof(proof: Proof, max_drop: float) -> None:
    """Refuse a graph that is not what was trained.

    Args:
        proof: of the graph.
        max_drop: how many points of top-1 accuracy may be lost.

    Raises:
        ProofError: a probability differs by more than the tolerance, or too much accuracy was lost.
    """
    if proof.largest_difference > proof.tolerance:
        raise ProofError(
            f"the exported model is not what was trained: a probability differs by {proof.largest_difference:.2e}, "
            f"more than {proof.tolerance:.0e}; nothing was published"
        )
    if drop(proof) > max_drop:
        raise ProofError(
            f"the exported model loses {drop(proof):.2f} points of top-1 accuracy on {proof.images} images "
            f"({proof.accuracy:.4f} of {proof.trained_accuracy:.4f}), more than --max-drop {max_drop:g}; nothing was "
            "published"
        )


def check_graph(model: onnx.ModelProto) -> None:
    """Refuse a graph that runs here and would not elsewhere.

    Raises:
        ProofError: it breaks ONNX's rules, has a fixed batch, keeps tensors in another file, or has a convolution
            whose bias is not of rank 1, which a known error of exporters makes and TensorRT refuses.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker's and shape inference's errors have no common base
        raise ProofError(f"the exported graph breaks ONNX's rules: {error}; nothing was published") from error
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].dim_param:
            raise ProofError(f"{value.name} takes batches of {dims[0].dim_value} alone; nothing was published")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    outside = [name for name, tensor in tensors.items() if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise ProofError(
            f"{len(outside)} tensors would lie in another file, {outside[0]} for one; nothing was published"
        )
    for node in model.graph.node:
        bias = tensors.get(node.input[2]) if node.op_type in ("Conv", "ConvTranspose") and len(node.input) > 2 else None  # noqa: PLR2004
        if bias is not None and len(bias.dims) != 1:
            raise ProofError(f"the bias of {node.name} has rank {len(bias.dims)}, not 1; nothing was published")
