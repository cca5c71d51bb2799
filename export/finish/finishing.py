"""Finish an int8 graph: train what was tuned, on the run's training images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from unfreeze.contract.reporting import Reporter
from unfreeze.export.finish.train import FinishOptions, finish
from unfreeze.export.finish.trainable import TrainableGraph
from unfreeze.export.prepared import PreparedImages
from unfreeze.export.session import Session
from unfreeze.tune.backbones.network import Network

_PREFIX = "network."  # of the network inside the exported module
_BATCH = 7


@dataclass(frozen=True, kw_only=True)
class Finishing:
    """What an int8 graph is finished on.

    Args:
        images: returns prepared training images.
        trained: names of the tuned weights in the graph.
        seed: of the order of the images.
    """

    images: Callable[[], PreparedImages]
    trained: frozenset[str]
    seed: int

    def finish(
        self,
        model: onnx.ModelProto,
        floats: Mapping[str, np.ndarray],
        float_graph: onnx.ModelProto,
        epochs: int,
        reporter: Reporter,
    ) -> onnx.ModelProto:
        """Train the tuned layers of a quantized graph to give the float graph's probabilities.

        Args:
            model: the quantized graph.
            floats: the weights before quantization, by name.
            float_graph: the graph before quantization.
            epochs: passes over the images.
            reporter: shows progress.

        Raises:
            ProofError: the images are missing, or the graph cannot be trained.
        """
        graph = TrainableGraph(model, floats, self.trained)
        pixels = self.images().pixels
        session = Session(float_graph.SerializeToString(), "fp32")
        targets = np.concatenate([session.run(pixels[at : at + _BATCH]) for at in range(0, len(pixels), _BATCH)])
        return finish(graph, model, pixels, targets, FinishOptions(epochs=epochs, seed=self.seed), reporter)


def trained_weights(network: Network, cut: str) -> frozenset[str]:
    """Return the names, in an exported graph, of the weights of the head and of the blocks behind a cut.

    Args:
        network: the tuned network.
        cut: the first tuned block, "all" or "head".
    """
    count = len(network.block_names)
    first = network.position(cut) if cut in (*network.block_names, "all") else count
    return frozenset(_PREFIX + name for name in network.trained_state(range(first, count)))
