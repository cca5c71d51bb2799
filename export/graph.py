"""The exported graph: uint8 images in, calibrated probabilities out, with the manifest as metadata."""

import contextlib
import copy
import io
import warnings
from collections.abc import Sequence
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from unfreeze.contract.errors import ProofError
from unfreeze.contract.model.manifest import INPUT, METADATA_KEY, OUTPUT, Manifest
from unfreeze.contract.model.seal import sealed
from unfreeze.tune.backbones.link import probabilities
from unfreeze.tune.backbones.network import Network

OPSET = 18
_EXAMPLE_BATCH = 2
_ATTENTION_AXES = 4  # batch, heads, tokens, features
_MAP_AXES = 4  # batch, channels, height, width


class _Plain(TorchFunctionMode):
    """Computes by their formulas what the exporter does not translate well.

    It translates attention over four axes only, and pooling to one place into a mean, a reshape and a gather with
    indices that are computed for each batch.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is nn.functional.scaled_dot_product_attention and args[0].ndim != _ATTENTION_AXES:
            return _attention(*args, **(kwargs or {}))
        if func is nn.functional.adaptive_avg_pool2d and _pools_to_one_place(*args, **(kwargs or {})):
            return args[0].mean((-2, -1), keepdim=True)
        return func(*args, **(kwargs or {}))


def _pools_to_one_place(_: Tensor, output_size: int | Sequence[int | None]) -> bool:
    return output_size == 1 or (not isinstance(output_size, int) and tuple(output_size) == (1, 1))


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, **options: Any
) -> Tensor:
    """Compute `scaled_dot_product_attention` in evaluation mode (Vaswani et al. 2017, arXiv:1706.03762)."""
    if dropout_p or any(options.get(name) for name in ("is_causal", "enable_gqa")):
        raise ProofError(f"attention over {query.ndim} axes is exported without dropout, causal mask and grouped heads")
    scale = options.get("scale") or query.shape[-1] ** -0.5
    scores = (query * scale) @ key.transpose(-2, -1)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    attended: Tensor = scores.softmax(-1) @ value
    return attended


class Float16Network(nn.Module):
    """A network whose blocks compute in float16; normalization, pooling and head stay in float32.

    Args:
        network: the network, in float32; it is copied.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.network.model.half()

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the logits of prepared images, in float32."""
        network = self.network
        activations = network.normalize(pixels).half()
        logits: Tensor = network.head(network.run_blocks(activations, 0, len(network.block_names)))
        return logits


class CalibratedNetwork(nn.Module):
    """A network with calibrated probabilities: images, uint8 [N, H, W, 3], to float32 [N, C].

    Args:
        network: computes float32 logits.
        temperature: divides the logits.
        link: how the result becomes probabilities, "softmax" or "sigmoid".
    """

    def __init__(self, network: Network | Float16Network, temperature: float, link: str) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature
        self.link = link

    def forward(self, pixels: Tensor) -> Tensor:
        """Classify prepared images."""
        return self.calibrate(self.network(pixels))

    def calibrate(self, logits: Tensor) -> Tensor:
        """Return the calibrated probabilities of logits."""
        return probabilities(logits, self.link, self.temperature)

    def pooled(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head's pooled features of prepared images, [N, F], and their logits, [N, C]."""
        network = self.network if isinstance(self.network, Network) else self.network.network
        features = network.head.pool(network.run_blocks(pixels, 0, len(network.block_names)))
        return features, network.head.classify(features)

    def to_float16(self) -> "CalibratedNetwork":
        """Return a copy whose blocks compute in float16."""
        network = Float16Network(self.network) if isinstance(self.network, Network) else self.network
        return CalibratedNetwork(network, self.temperature, self.link)


def onnx_from_network(network: CalibratedNetwork, shape: tuple[int, int, int]) -> onnx.ModelProto:
    """Export a network with a dynamic batch size and without external data.

    Args:
        network: on the CPU.
        shape: height, width and channels of a prepared image.

    Returns:
        A model without debugging information: equal weights give equal bytes.
    """
    # A batch size of 1 would be exported as a constant.
    example = torch.zeros(_EXAMPLE_BATCH, *shape, dtype=torch.uint8)
    # torch's exporter uses deprecated functions of torch, and prints its progress on standard output.
    # Of attention, the exporter decomposes the plain formula; the strides of fused kernels' results differ from it.
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        sdpa_kernel(SDPBackend.MATH),
        _Plain(),
    ):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network.eval(),
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
        )
    if program is None:
        raise ProofError("torch exported no graph; nothing was published")
    model = program.model_proto
    _lower_einsums(model)
    _pool_globally(model)
    strip_debug_info(model)
    return model


def with_manifest(model: onnx.ModelProto, manifest: Manifest) -> bytes:
    """Store a manifest in a model, serialize it and seal it.

    Args:
        model: its metadata is replaced by the manifest.
        manifest: without a seal.

    Returns:
        The content of `model.onnx`.
    """
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=manifest.to_json())
    return sealed(model.SerializeToString(deterministic=True))


def _lower_einsums(model: onnx.ModelProto) -> None:
    """Write the axes of Einsum in lower case, because TensorRT's parser accepts no other."""
    for node in model.graph.node:
        for attribute in node.attribute if node.op_type == "Einsum" else ():
            letters = {letter for letter in attribute.s.decode() if letter.isalpha()}
            if len({letter.lower() for letter in letters}) == len(letters):
                attribute.s = attribute.s.lower()


def _pool_globally(model: onnx.ModelProto) -> None:
    """Write the mean of feature maps over height and width as GlobalAveragePool.

    ONNX Runtime has kernels of it for its blocked layout of float32 and for int8; of ReduceMean it has neither. In a
    squeeze-and-excitation it would convert the layout back and forth.
    """
    maps = {value.name for value in model.graph.value_info if len(value.type.tensor_type.shape.dim) == _MAP_AXES}
    axes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or node.input[0] not in maps:
            continue
        reduced = sorted(axis % _MAP_AXES for name in node.input[1:] for axis in axes.get(name, ()))
        if reduced == [2, 3] and all(one.i for one in node.attribute if one.name == "keepdims"):
            node.op_type = "GlobalAveragePool"
            del node.input[1:], node.attribute[:]
    used = {name for node in model.graph.node for name in node.input}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)


def strip_debug_info(model: onnx.ModelProto) -> None:
    """Remove what torch stores for debugging: stack traces with paths, and class names."""
    del model.metadata_props[:]
    model.doc_string = ""
    graph = model.graph
    graph.doc_string = ""
    annotated: list[Any] = [graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for item in annotated:
        del item.metadata_props[:]
        item.doc_string = ""
