"""Compare an exported graph with the network that it was exported from."""

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
from unfreeze.export.graph import CalibratedNetwork
from unfreeze.export.prepared import PreparedImages
from unfreeze.export.session import Session
from unfreeze.tune.ood.score import Score

BATCH_SIZES = (1, 2, 7)
_TORCH_BATCH = 8
_REPEATED_IMAGES = 14  # run in batches of every size
_SMALLEST_DEVIATION = 1e-3  # of scores of images that are all alike
_SCORE_TOLERANCE = 0.01  # standard deviations
_NAN_DIFFERENCE = 2.0  # more than any difference of two probabilities


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The trained network's probabilities on the validation images.

    Args:
        images: the prepared images.
        probabilities: computed by torch, float32 [N, C].
        batch_sizes: the batch sizes that every graph is run with.
        scores: out-of-distribution scores, computed by torch, float32 [N]; None without a score.
    """

    images: PreparedImages
    probabilities: Float32[np.ndarray, "n c"]
    batch_sizes: tuple[int, ...]
    scores: Float32[np.ndarray, " n"] | None = None

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy of the trained network, 0 to 1."""
        return float((self.probabilities.argmax(1) == self.images.labels).mean())


def compute_reference(
    network: CalibratedNetwork,
    images: PreparedImages,
    max_batch: int,
    reporter: Reporter,
    score: Score | None = None,
) -> Reference:
    """Classify the validation images with torch.

    Args:
        network: the network, in float32 on the CPU.
        images: the images to classify.
        max_batch: largest batch size that a graph is served with.
        reporter: shows progress.
        score: out-of-distribution score to compute, too.
    """
    count = len(images.labels)
    advance = reporter.track("running the trained network", count)

    def classify(start: int) -> tuple[np.ndarray, np.ndarray]:
        batch = torch.from_numpy(np.array(images.pixels[start : start + _TORCH_BATCH]))
        with torch.inference_mode():
            features, logits = network.pooled(batch)
            found = network.calibrate(logits).numpy(), (logits[:, 0] if score is None else score.of(logits, features))
        advance(len(batch))
        return found[0], found[1].numpy()

    with _single_threaded_batches() as pool:
        batches = list(pool.map(classify, range(0, count, _TORCH_BATCH)))
    probabilities, scores = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    sizes = tuple(sorted({size for size in (*BATCH_SIZES, max_batch) if size <= max_batch}))
    return Reference(
        images=images, probabilities=probabilities, batch_sizes=sizes, scores=None if score is None else scores
    )


@contextmanager
def _single_threaded_batches() -> Iterator[ThreadPoolExecutor]:
    """Run batches in parallel, each in one thread, because the rounding of sums depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(before) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def prove(model: bytes, precision: str, reference: Reference, tolerance: float, reporter: Reporter) -> Proof:
    """Compare a graph with torch, as `prove_with_scores` does."""
    return prove_with_scores(model, precision, reference, tolerance, reporter)[0]


def prove_with_scores(
    model: bytes, precision: str, reference: Reference, tolerance: float, reporter: Reporter
) -> tuple[Proof, Float32[np.ndarray, " n"] | None]:
    """Run all validation images through ONNX Runtime, and a few of them in batches of every size.

    Args:
        model: the content of `model.onnx`.
        precision: "fp32", "fp16" or "int8".
        reference: torch's probabilities.
        tolerance: largest accepted difference of a probability; recorded here and checked by `check_proof`.
        reporter: shows progress.

    Returns:
        The proof, and the out-of-distribution scores that the graph gives; None without a score.

    Raises:
        ProofError: the model does not run.
    """
    session, pixels = Session(model, precision), reference.images.pixels
    advance, batches = reporter.track("checking the exported graph", len(pixels)), []
    for start in range(0, len(pixels), max(BATCH_SIZES)):
        batches.append(session.answers(pixels[start : start + max(BATCH_SIZES)]))
        advance(len(batches[-1]))
    classes = reference.probabilities.shape[1]
    answers = np.concatenate(batches)
    probabilities, scores = answers[:, :classes], None if reference.scores is None else answers[:, classes]
    differences = [float(np.abs(probabilities - reference.probabilities).max())]
    for size in reference.batch_sizes:
        few = np.resize(pixels[:_REPEATED_IMAGES], (max(size, min(_REPEATED_IMAGES, len(pixels))), *pixels.shape[1:]))
        again = np.concatenate([session.run(few[start : start + size]) for start in range(0, len(few), size)])
        wanted = np.resize(reference.probabilities[:_REPEATED_IMAGES], (len(few), classes))
        differences.append(float(np.abs(again - wanted).max()))
    top1 = probabilities.argmax(1)
    proof = Proof(
        images=len(pixels),
        batch_sizes=reference.batch_sizes,
        largest_difference=float(np.nan_to_num(np.max(differences), nan=_NAN_DIFFERENCE)),
        tolerance=tolerance,
        same_top1=float((top1 == reference.probabilities.argmax(1)).mean()),
        accuracy=float((top1 == reference.images.labels).mean()),
        trained_accuracy=reference.accuracy,
        score_difference=_score_difference(scores, reference.scores),
    )
    return proof, scores


def _score_difference(found: np.ndarray | None, wanted: np.ndarray | None) -> float | None:
    """Return the largest difference of a score, as a share of the standard deviation of the wanted ones."""
    if found is None or wanted is None:
        return None
    difference = np.abs(found - wanted).max() / max(float(wanted.std()), _SMALLEST_DEVIATION)
    return float(np.nan_to_num(difference, nan=_NAN_DIFFERENCE, posinf=_NAN_DIFFERENCE))


def accuracy_drop(proof: Proof) -> float:
    """Return the drop of top-1 accuracy in percentage points; negative where accuracy is higher than before."""
    return 100 * (proof.trained_accuracy - proof.accuracy)


def check_proof(proof: Proof, max_drop: float, *, is_exact: bool = False) -> None:
    """Reject a graph that differs too much from the trained network.

    Args:
        proof: of the graph.
        max_drop: largest accepted drop of top-1 accuracy, in percentage points.
        is_exact: whether the graph is in float32, so that its out-of-distribution scores must be those of torch.

    Raises:
        ProofError: a probability or a score differs by more than the tolerance, or accuracy drops by more than
            `max_drop`.
    """
    if proof.largest_difference > proof.tolerance:
        raise ProofError(
            f"the exported model differs from the trained network: a probability by {proof.largest_difference:.2e}, "
            f"more than --tolerance {proof.tolerance:.0e}; nothing was published"
        )
    if is_exact and proof.score_difference is not None and proof.score_difference > _SCORE_TOLERANCE:
        raise ProofError(
            f"the exported model differs from the trained network: an out-of-distribution score by "
            f"{proof.score_difference:.2e} standard deviations, more than {_SCORE_TOLERANCE}; nothing was published"
        )
    if accuracy_drop(proof) > max_drop:
        raise ProofError(
            f"the exported model loses {accuracy_drop(proof):.2f} points of top-1 accuracy on {proof.images} images "
            f"({proof.accuracy:.4f} of {proof.trained_accuracy:.4f}), more than --max-drop {max_drop:g}; nothing was "
            "published"
        )


def check_graph(model: onnx.ModelProto) -> None:
    """Reject a graph that other runtimes would not load.

    Raises:
        ProofError: the graph is not valid ONNX, has a fixed batch size, stores tensors in another file, or has a
            convolution whose bias is not of rank 1: a known bug of exporters, which TensorRT rejects.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker's and shape inference's errors have no common base class
        raise ProofError(f"the exported graph is not valid ONNX: {error}; nothing was published") from error
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].dim_param:
            raise ProofError(f"{value.name} has a fixed batch size of {dims[0].dim_value}; nothing was published")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    outside = [name for name, tensor in tensors.items() if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise ProofError(f"tensors are stored outside of the graph, for example {outside[0]}; nothing was published")
    for node in model.graph.node:
        bias = tensors.get(node.input[2]) if node.op_type in ("Conv", "ConvTranspose") and len(node.input) > 2 else None  # noqa: PLR2004
        if bias is not None and len(bias.dims) != 1:
            raise ProofError(f"the bias of {node.name} has rank {len(bias.dims)}, not 1; nothing was published")
