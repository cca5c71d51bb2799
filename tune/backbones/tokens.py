"""Find the tokens that a vision transformer pools, for another pooling of them."""

from dataclasses import dataclass

from torch import fx, nn

from unfreeze.tune.backbones.cuts import CutChooser
from unfreeze.tune.backbones.liveness import Liveness

_CLASS_TOKENS = "cls_token", "class_token"  # parameters of the models of timm and of torchvision


@dataclass(frozen=True, kw_only=True)
class PooledTokens:
    """Tokens [N, T, F] of which a model's features [N, F] are a selection or a mean.

    Args:
        node: the tokens.
        prefix: number of tokens before those of the patches: the class token, which comes first, and registers.
    """

    node: fx.Node
    prefix: int


def find_pooled_tokens(
    model: nn.Module, liveness: Liveness, chooser: CutChooser, start: fx.Node, end: fx.Node
) -> PooledTokens | None:
    """Find the last tokens of a model with a class token.

    Args:
        model: the model of the graph.
        liveness: of the graph.
        chooser: knows the order of the nodes.
        start: the cut before the last block.
        end: the features.

    Returns:
        The tokens; None if there is no class token, or if modules with parameters follow.
    """
    if all(getattr(model, name, None) is None for name in _CLASS_TOKENS):
        return None
    inside, features = chooser.between(start, end), liveness.shapes[end]
    prefix = int(getattr(model, "num_prefix_tokens", 1))
    for node in (one for one in reversed(inside) if one in liveness.cuts):
        if any(_has_parameters(model, one) for one in chooser.between(node, end)):
            return None
        shape = liveness.shapes[node]
        if shape[1:] == features and shape[0] > prefix:
            return PooledTokens(node=node, prefix=prefix)
    return None


def _has_parameters(model: nn.Module, node: fx.Node) -> bool:
    return node.op == "call_module" and any(True for _ in model.get_submodule(str(node.target)).parameters())
