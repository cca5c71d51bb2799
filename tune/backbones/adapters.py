"""Modules for steps that some of torchvision's classifiers perform in `forward` instead of in a submodule."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class InputTransform(nn.Module):
    """Convert ImageNet normalization to the one that GoogLeNet's and Inception's weights were trained with.

    Args:
        model: a GoogLeNet or Inception; its own transform method is used.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        # torchvision has no public name for it.
        self._transform: Callable[[Tensor], Tensor] = model._transform_input  # noqa: SLF001

    def forward(self, images: Tensor) -> Tensor:
        """Map [N, 3, H, W] to the same shape."""
        return self._transform(images)


class PatchTokens(nn.Module):
    """A vision transformer's first step: images [N, 3, H, W] to tokens [N, 1 + P, F], the class token first.

    Args:
        model: a VisionTransformer; its parameters are shared, not copied.
    """

    class_token: nn.Parameter
    pos_embedding: nn.Parameter

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.conv_proj = model.conv_proj
        self.class_token = model.class_token
        self.pos_embedding = model.encoder.pos_embedding
        self.dropout = model.encoder.dropout

    def forward(self, images: Tensor) -> Tensor:
        """Split into patches, project them, prepend the class token and add the position embeddings."""
        patches: Tensor = self.conv_proj(images).flatten(2).permute(0, 2, 1)
        # `len(patches)` would be exported as a constant.
        tokens = torch.cat([self.class_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        embedded: Tensor = self.dropout(tokens + self.pos_embedding)
        return embedded


class ClassToken(nn.Module):
    """A vision transformer's last step: tokens [N, 1 + P, F] to the class token as a map [N, F, 1, 1]."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Select the first token."""
        return tokens[:, 0, :, None, None]


class SpatialMean(nn.Module):
    """Average [N, F, h, w] over height and width, as ShuffleNet and MNASNet do before their classifier: to [N, F]."""

    def forward(self, activations: Tensor) -> Tensor:
        """Average over the last two axes."""
        return activations.mean([2, 3])
