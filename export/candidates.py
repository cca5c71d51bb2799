"""Build a graph for each precision, hold each against the trained network, and choose one."""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import onnx

from unfreeze.contract.errors import ProofError
from unfreeze.contract.model.manifest import Candidate, Proof
from unfreeze.contract.reporting import Reporter
from unfreeze.export.graph import HalfNetwork, Served, graph_from_network
from unfreeze.export.options import ExportOptions, Precision
from unfreeze.export.prepared import Prepared
from unfreeze.export.prove import Expected, check_graph, check_proof, drop, prove
from unfreeze.export.quantize import Quantizer
from unfreeze.export.speed import Speed, time_graphs

_FLOAT = "fp32"
_ANY = 1.0  # a probability cannot differ by more: fp16 and int8 are judged by their answers


@dataclass(frozen=True, kw_only=True)
class Built:
    """A graph, and what it is worth.

    Args:
        graph: with no manifest in it yet.
        about: its precision, size and proof.
        speeds: on this machine, by batch; none where no choice was asked for.
        verdict: why it is published, or is not.
    """

    graph: onnx.ModelProto
    about: Candidate
    speeds: tuple[Speed, ...] = ()
    verdict: str = ""

    @cached_property
    def content(self) -> bytes:
        """The graph as a file has it."""
        return self.graph.SerializeToString(deterministic=True)


@dataclass(frozen=True, kw_only=True)
class Builder:
    """Makes candidates of one trained network.

    Args:
        served: the network, in float32 on the CPU.
        shape: height, width and channels of a prepared image.
        expected: what it answers to the validation images.
        calibration: gives training images for int8.
        options: what to make.
        reporter: shows progress.
    """

    served: Served
    shape: tuple[int, int, int]
    expected: Expected
    calibration: Callable[[], Prepared]
    options: ExportOptions
    reporter: Reporter

    def build(self, precision: Precision) -> Built:
        """Make a graph and prove it.

        Raises:
            ProofError: it breaks ONNX's rules, or cannot run.
        """
        self.reporter.info(f"exporting the graph in {precision}")
        if precision == "int8":
            return self._quantized()
        if precision == _FLOAT:
            return self._built(self._float_graph, precision, self.options.tolerance)
        served = self.served
        half = Served(HalfNetwork(served.network), served.temperature, served.link)
        return self._built(graph_from_network(half, self.shape), precision, _ANY)

    @cached_property
    def _float_graph(self) -> onnx.ModelProto:
        """In float32: published as it is, and what int8 is made of."""
        return graph_from_network(self.served, self.shape)

    def _built(self, graph: onnx.ModelProto, precision: Precision, tolerance: float, kept: int = 0) -> Built:
        check_graph(graph)
        content = graph.SerializeToString(deterministic=True)
        proof = prove(content, precision, self.expected, tolerance, self.reporter)
        return Built(
            graph=graph,
            about=Candidate(precision=precision, bytes=len(content), kept_in_float=kept, proof=proof),
        )

    def _quantized(self) -> Built:
        """Quantize everything; where that loses too much, keep the worst layers in float: 1, 2, 4, 8, ... of them."""
        with tempfile.TemporaryDirectory() as folder:
            quantizer = Quantizer(self._float_graph, self.calibration().pixels, self.options.kernels, Path(folder))
            layers = len(quantizer.layers)
            best = self._built(quantizer.graph(), "int8", _ANY)
            order: Sequence[str] = ()
            count = 1
            while drop(best.about.proof) > self.options.max_drop and count < layers:
                order = order or quantizer.by_loss()
                self.reporter.info(f"int8 loses {drop(best.about.proof):.2f} points: keeping {count} layers in float")
                tried = self._built(quantizer.graph(order[:count]), "int8", _ANY, kept=count)
                best = tried if drop(tried.about.proof) < drop(best.about.proof) else best
                count *= 2
            return best


def choose(
    built: Sequence[Built], options: ExportOptions, shape: tuple[int, int, int], reporter: Reporter
) -> list[Built]:
    """Time the candidates and say of each why it is published or not; the published one comes first.

    Args:
        built: the fp32 one first.
        options: how much may be lost, and at which batch the model will serve.
        shape: height, width and channels of a prepared image.
        reporter: shows progress.
    """
    graphs = {one.about.precision: one.content for one in built}
    batches = tuple(sorted({1, min(options.serving_batch, options.max_batch)}))
    speeds = time_graphs(graphs, shape, batches, reporter)
    timed = [replace(one, speeds=speeds[one.about.precision]) for one in built]
    fit = [one for one in timed if _is_fit(one, options)]
    best = max(fit, key=_gain)
    return [replace(best, verdict="published")] + [
        replace(one, verdict=_why_not(one, options)) for one in timed if one is not best
    ]


def _is_fit(built: Built, options: ExportOptions) -> bool:
    if built.about.precision == _FLOAT:
        return True
    return _is_true(built.about.proof, options) and all(speed.times_fp32 > 1 for speed in built.speeds)


def _is_true(proof: Proof, options: ExportOptions) -> bool:
    try:
        check_proof(proof, options.max_drop)
    except ProofError:
        return False
    return True


def _gain(built: Built) -> float:
    """Multiply how many times as fast it is, over the batch sizes."""
    return math.prod(speed.times_fp32 for speed in built.speeds)


def _why_not(built: Built, options: ExportOptions) -> str:
    if not _is_true(built.about.proof, options):
        return f"loses {drop(built.about.proof):.2f} points"
    slowest = min(speed.times_fp32 for speed in built.speeds)
    if built.about.precision != _FLOAT and slowest <= 1:
        return f"{slowest:.2f} x as fast as {_FLOAT}"
    return "slower"
