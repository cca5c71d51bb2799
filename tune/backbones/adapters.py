"""The steps that some of torchvision's classifiers take in their `forward` and not in a module: each as a module."""

import torch
from torch import Tensor, nn


class InputTransform(nn.Module):
    """What GoogLeNet and Inception do to images normalized for ImageNet: their weights were trained otherwise.

    Args:
        model: whose own method does it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._transform = model._transform_input  # noqa: SLF001 - torchvision has no public name for it

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] to the same shape."""
        return self._transform(images)


class PatchTokens(nn.Module):
    """A vision transformer's first step: images [N, 3, H, W] to tokens [N, 1 + P, F], the class token first.

    Args:
        model: whose weights it uses; they stay the model's.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.conv_proj = model.conv_proj
        self.class_token = model.class_token
        self.pos_embedding = model.encoder.pos_embedding
        self.dropout = model.encoder.dropout

    def forward(self, images: Tensor) -> Tensor:
        """Cut into patches, project, put the class token in front, add the positions."""
        patches = self.conv_proj(images).flatten(2).permute(0, 2, 1)
        # Not `len(patches)`, which an export would take for a constant.
        tokens = torch.cat([self.class_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        return self.dropout(tokens + self.pos_embedding)


class ClassToken(nn.Module):
    """A vision transformer's last step: tokens [N, 1 + P, F] to the class token as a map [N, F, 1, 1]."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Take the first token."""
        return tokens[:, 0, :, None, None]


class SpatialMean(nn.Module):
    """Average over the image's area, as ShuffleNet and MNASNet do before their classifier: to [N, F]."""

    def forward(self, activations: Tensor) -> Tensor:
        """Average."""
        return activations.mean([2, 3])
