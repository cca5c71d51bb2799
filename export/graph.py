"""The exported graph: uint8 images in, calibrated probabilities out, the manifest inside."""

import contextlib
import copy
import io
import warnings

import onnx
import torch
from torch import Tensor, nn

from unfreeze.contract.model.manifest import INPUT, METADATA_KEY, OUTPUT, Manifest
from unfreeze.contract.model.seal import sealed
from unfreeze.tune.backbones.link import probabilities
from unfreeze.tune.backbones.network import Network

OPSET = 18
_EXAMPLE_BATCH = 2


class HalfNetwork(nn.Module):
    """A network whose blocks compute in float16; normalization, pooling, head and softmax stay in float32.

    Args:
        network: in float32; copied.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.network.model.half()

    def forward(self, pixels: Tensor) -> Tensor:
        """Give the logits of prepared images, float32."""
        network = self.network
        activations = network.normalize(pixels).half()
        return network.head(network.run_blocks(activations, 0, len(network.block_names)))


class Served(nn.Module):
    """A network as it is served: images, uint8 [N, H, W, 3], to probabilities, float32 [N, C].

    Args:
        network: gives logits, whatever it computes them in.
        temperature: what they are divided by first.
        link: how they become probabilities then, "softmax" or "sigmoid".
    """

    def __init__(self, network: Network | HalfNetwork, temperature: float, link: str) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature
        self.link = link

    def forward(self, pixels: Tensor) -> Tensor:
        """Classify prepared images."""
        return probabilities(self.network(pixels), self.link, self.temperature)


def graph_from_network(served: Served, shape: tuple[int, int, int]) -> onnx.ModelProto:
    """Export a network, with a dynamic batch, everything in one file.

    Args:
        served: on the CPU, in eval mode.
        shape: height, width and channels of a prepared image.

    Returns:
        A model with no traces of the machine that made it: equal weights give equal bytes.
    """
    # A batch of 1 would be taken for a constant.
    example = torch.zeros(_EXAMPLE_BATCH, *shape, dtype=torch.uint8)
    # Both are torch's: deprecations inside its own exporter, and its steps, told on standard output.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            served.eval(),
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
        )
    model = program.model_proto
    _lower_einsums(model)
    forget_the_machine(model)
    return model


def with_manifest(model: onnx.ModelProto, manifest: Manifest) -> bytes:
    """Put a manifest into a model, write it and seal it.

    Args:
        model: changed: its metadata are the manifest alone.
        manifest: what the model says of itself, not sealed yet.

    Returns:
        The content of `model.onnx`.
    """
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=manifest.to_json())
    return sealed(model.SerializeToString(deterministic=True))


def _lower_einsums(model: onnx.ModelProto) -> None:
    """Write the axes of Einsum in lower case, the only one that TensorRT's parser reads."""
    for node in model.graph.node:
        for attribute in node.attribute if node.op_type == "Einsum" else ():
            letters = {letter for letter in attribute.s.decode() if letter.isalpha()}
            if len({letter.lower() for letter in letters}) == len(letters):
                attribute.s = attribute.s.lower()


def forget_the_machine(model: onnx.ModelProto) -> None:
    """Drop what torch notes for debugging: stack traces with paths, and names of its own classes."""
    del model.metadata_props[:]
    model.doc_string = ""
    graph = model.graph
    graph.doc_string = ""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
