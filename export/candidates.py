"""Build a graph for each precision, check it against the trained network, and choose one."""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx

from unfreeze.contract.arrays import Float32
from unfreeze.contract.counted import counted
from unfreeze.contract.errors import ProofError
from unfreeze.contract.model.manifest import Candidate, Proof
from unfreeze.contract.reporting import Reporter
from unfreeze.export.added_outputs import NOTHING_ADDED, AddedOutputs
from unfreeze.export.by_speed import faster_in_float
from unfreeze.export.finish.finishing import Finishing
from unfreeze.export.graph import CalibratedNetwork, onnx_from_network
from unfreeze.export.options import ExportOptions, Precision
from unfreeze.export.prepared import PreparedImages
from unfreeze.export.prove import Reference, accuracy_drop, check_graph, check_proof, prove_with_scores
from unfreeze.export.quantize import Quantizer
from unfreeze.export.speed import Speed, time_graphs

_FLOAT = "fp32"
_ANY_DIFFERENCE = 1.0  # of probabilities: fp16 and int8 are accepted by accuracy, not by the difference


@dataclass(frozen=True, kw_only=True)
class CandidateGraph:
    """A graph with its size, accuracy and latency.

    Args:
        graph: without a manifest.
        about: precision, size and proof.
        speeds: latency on this machine by batch size; empty where no choice was requested.
        scores: out-of-distribution scores of the validation images; None without a score.
        verdict: why the graph is published or not.
    """

    graph: onnx.ModelProto
    about: Candidate
    speeds: tuple[Speed, ...] = ()
    scores: Float32[np.ndarray, " n"] | None = None
    verdict: str = ""

    @cached_property
    def content(self) -> bytes:
        """The serialized graph."""
        return self.graph.SerializeToString(deterministic=True)


@dataclass(frozen=True, kw_only=True)
class CandidateBuilder:
    """Builds graphs of one trained network in several precisions.

    Args:
        network: the network, in float32 on the CPU.
        shape: height, width and channels of a prepared image.
        reference: the network's probabilities on the validation images.
        calibration: returns training images that calibrate int8.
        options: options of the export.
        reporter: shows progress.
        added: outputs that every graph has besides the probabilities.
        keep_in_float: whether int8 may keep the worst layers in float, which takes a calibration for each attempt.
        finishing: what a quantized graph that loses too much is trained on; None for no training.
    """

    network: CalibratedNetwork
    shape: tuple[int, int, int]
    reference: Reference
    calibration: Callable[[], PreparedImages]
    options: ExportOptions
    reporter: Reporter
    added: AddedOutputs = NOTHING_ADDED
    keep_in_float: bool = True
    finishing: Finishing | None = None

    def build(self, precision: Precision) -> CandidateGraph:
        """Build a graph and compare it with the trained network.

        Raises:
            ProofError: the graph is not valid ONNX, or does not run.
        """
        self.reporter.info(f"exporting the graph in {precision}")
        if precision == "int8":
            return self._quantized()
        if precision == _FLOAT:
            return self._check(self._float_graph, precision, self.options.tolerance)
        return self._check(onnx_from_network(self.network.to_float16(), self.shape), precision, _ANY_DIFFERENCE)

    @cached_property
    def _float_graph(self) -> onnx.ModelProto:
        """The float32 graph, from which int8 is quantized."""
        return onnx_from_network(self.network, self.shape)

    def _check(
        self, graph: onnx.ModelProto, precision: Precision, tolerance: float, kept: int = 0, finish_epochs: int = 0
    ) -> CandidateGraph:
        graph = self.added.add_to(graph)
        check_graph(graph)
        content = graph.SerializeToString(deterministic=True)
        proof, scores = prove_with_scores(content, precision, self.reference, tolerance, self.reporter)
        return CandidateGraph(
            graph=graph,
            scores=scores,
            about=Candidate(
                precision=precision, bytes=len(content), kept_in_float=kept, proof=proof, finish_epochs=finish_epochs
            ),
        )

    def _quantized(self) -> CandidateGraph:
        """Quantize all layers; while accuracy drops too much, finish, then keep 1, 2, 4, 8, ... layers in float."""
        with tempfile.TemporaryDirectory() as folder:
            quantizer = Quantizer(self._float_graph, self.calibration().pixels, self.options.kernels, Path(folder))
            fast = self._faster_in_float(quantizer)
            layers = len(quantizer.layers) - len(fast) if self.keep_in_float else 0
            best = self._check(quantizer.graph(fast), "int8", _ANY_DIFFERENCE, kept=len(fast))
            # Layers in float make the graph larger and slower, training does not.
            if self._loses(best) and self.finishing and self.options.finish_epochs:
                best = self._finished(quantizer, fast, self.finishing, best)
            order: Sequence[str] = ()
            count = 1
            while self._loses(best) and count < layers:
                order = order or [name for name in quantizer.layers_by_error() if name not in fast]
                dropped = accuracy_drop(best.about.proof)
                self.reporter.info(
                    f"int8 loses {dropped:.2f} points of accuracy: keeping {counted(count, 'layer')} in float"
                )
                kept = (*fast, *order[:count])
                tried = self._check(quantizer.graph(kept), "int8", _ANY_DIFFERENCE, kept=len(kept))
                best = tried if accuracy_drop(tried.about.proof) < accuracy_drop(best.about.proof) else best
                count *= 2
            return best

    def _loses(self, built: CandidateGraph) -> bool:
        return accuracy_drop(built.about.proof) > self.options.max_drop

    def _faster_in_float(self, quantizer: Quantizer) -> tuple[str, ...]:
        """Return layers that are faster in float; none where nothing is timed, so that equal runs give equal bytes."""
        if not self.options.chooses or not self.keep_in_float:
            return ()
        return faster_in_float(quantizer, self.shape, timed_batches(self.options), self.reporter)

    def _finished(
        self, quantizer: Quantizer, fast: tuple[str, ...], finishing: Finishing, best: CandidateGraph
    ) -> CandidateGraph:
        """Train the graph; return it if it loses less than the one that is not trained."""
        self.reporter.info(f"int8 loses {accuracy_drop(best.about.proof):.2f} points of accuracy: finishing it")
        try:
            graph = finishing.finish(
                quantizer.graph(fast), quantizer.weights, self._float_graph, self.options.finish_epochs, self.reporter
            )
        except ProofError as error:
            self.reporter.info(f"int8 is not finished: {error}")
            return best
        tried = self._check(graph, "int8", _ANY_DIFFERENCE, len(fast), self.options.finish_epochs)
        is_better = accuracy_drop(tried.about.proof) < accuracy_drop(best.about.proof)
        found = accuracy_drop(tried.about.proof)
        self.reporter.info(
            f"finished, int8 loses {found:.2f} points{'' if is_better else ', which is not less: not used'}"
        )
        return tried if is_better else best


def choose(
    built: Sequence[CandidateGraph], options: ExportOptions, shape: tuple[int, int, int], reporter: Reporter
) -> list[CandidateGraph]:
    """Measure the candidates' latency and choose the one to publish.

    Args:
        built: the candidates, fp32 first.
        options: the allowed drop in accuracy and the batch size to measure.
        shape: height, width and channels of a prepared image.
        reporter: shows progress.

    Returns:
        The candidates with latencies and verdicts, the published one first.
    """
    graphs = {one.about.precision: one.content for one in built}
    speeds = time_graphs(graphs, shape, timed_batches(options), reporter)
    timed = [replace(one, speeds=speeds[one.about.precision]) for one in built]
    acceptable = [one for one in timed if _is_acceptable(one, options)]
    best = max(acceptable, key=_speedup)
    return [replace(best, verdict="published")] + [
        replace(one, verdict=_rejection(one, options)) for one in timed if one is not best
    ]


def timed_batches(options: ExportOptions) -> tuple[int, ...]:
    """Return the batch sizes at which graphs are timed."""
    return tuple(sorted({1, min(options.serving_batch, options.max_batch)}))


def _is_acceptable(built: CandidateGraph, options: ExportOptions) -> bool:
    if built.about.precision == _FLOAT:
        return True
    return _is_accurate(built.about.proof, options) and all(speed.times_fp32 > 1 for speed in built.speeds)


def _is_accurate(proof: Proof, options: ExportOptions) -> bool:
    try:
        check_proof(proof, options.max_drop)
    except ProofError:
        return False
    return True


def _speedup(built: CandidateGraph) -> float:
    """Return the product of the speedups at all batch sizes."""
    return math.prod(speed.times_fp32 for speed in built.speeds)


def _rejection(built: CandidateGraph, options: ExportOptions) -> str:
    if not _is_accurate(built.about.proof, options):
        return f"loses {accuracy_drop(built.about.proof):.2f} points"
    speedup = min(speed.times_fp32 for speed in built.speeds)
    if built.about.precision != _FLOAT and speedup <= 1:
        return f"{speedup:.2f} x as fast as {_FLOAT}"
    return "slower"
