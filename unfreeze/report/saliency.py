"""Where the network looked: Grad-CAM on the last activations that still have places."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.tune.backbones.network import Network

_BATCH = 8
_MOST_PREFIX_TOKENS = 8  # class, distillation and register tokens


def saliency_maps(
    network: Network, pixels: UInt8[np.ndarray, "n h w 3"], classes: Sequence[int]
) -> list[Float32[np.ndarray, "y x"]]:
    """Compute which places of images speak for a class.

    Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391): activations are weighted by the mean gradient of the class's
    logit, summed over the features, and what is negative becomes 0. After the last block of a network that averages
    its maps, this is the class activation map (Zhou et al. 2016, arXiv:1512.04150) without its negative part. Of
    networks that pool a class token, the tokens before the last block are used.

    Args:
        network: in float32 on the CPU, in eval mode.
        pixels: prepared images.
        classes: the class of each.

    Returns:
        A map of each image, from 0 to 1, coarser than the image; none if no activations of the network have places.
    """
    if not len(pixels):
        return []
    images, wanted = torch.from_numpy(pixels.copy()), torch.tensor(classes)
    position = _last_with_places(network, images[:1])
    if position is None:
        return []
    batches = zip(images.split(_BATCH), wanted.split(_BATCH), strict=True)
    maps = torch.cat([_maps(*_gradients(network, *batch, position)) for batch in batches])
    return [(one / one.max().clamp(min=1e-12)).numpy() for one in maps]


def _last_with_places(network: Network, image: Tensor) -> int | None:
    """Return the number of blocks up to the last activations whose places count for the logits."""
    first = torch.zeros(1, dtype=torch.int64)
    for position in range(len(network.block_names), 0, -1):
        if _has_places(network, position) and _gradients(network, image, first, position)[1].any():
            return position
    return None


def _has_places(network: Network, position: int) -> bool:
    axes = network.spatial_axes(position)
    return bool(axes) and (len(axes) > 1 or _grid(network, position) is not None)


def _grid(network: Network, position: int) -> tuple[int, int] | None:
    """Return the rows and columns of the patches whose tokens are between two blocks; None if they are not clear.

    Patches are square, so that their grid has the proportions of the image; a few other tokens come before theirs.
    """
    tokens, (height, width, _) = network.border_shape(position)[0], network.image_shape
    grids = [(height // side, width // side) for side in range(1, min(height, width) + 1)]
    fitting = [
        (rows, columns)
        for side, (rows, columns) in enumerate(grids, start=1)
        if rows * side == height and columns * side == width and 0 <= tokens - rows * columns <= _MOST_PREFIX_TOKENS
    ]
    return max(fitting, default=None)


def _maps(activations: Tensor, gradients: Tensor) -> Tensor:
    """Combine activations and gradients, [n, y, x, F], to maps [n, y, x]."""
    weights = gradients.mean((1, 2), keepdim=True)
    maps: Tensor = (weights * activations).sum(3).clamp(min=0)
    return maps


def _gradients(network: Network, images: Tensor, classes: Tensor, position: int) -> tuple[Tensor, Tensor]:
    """Return the activations after `position` blocks, and the gradients of each image's logit: [n, y, x, F] both."""
    with torch.no_grad():
        activations = network.run_blocks(images, 0, position)
    with torch.enable_grad():
        activations = activations.detach().requires_grad_()
        logits = network.run_tail(activations.clone(), position)
        (gradients,) = torch.autograd.grad(logits[torch.arange(len(images)), classes].sum(), activations)
    return _by_place(network, position, activations.detach()), _by_place(network, position, gradients)


def _by_place(network: Network, position: int, activations: Tensor) -> Tensor:
    """Arrange maps or tokens as [n, y, x, F]; leave out the tokens before those of the patches."""
    axes = network.spatial_axes(position)
    if axes == (2, 3):
        return activations.permute(0, 2, 3, 1)
    if axes == (1, 2):
        return activations
    rows, columns = _grid(network, position) or (1, activations.shape[1])
    patches: Tensor = activations[:, -rows * columns :].unflatten(1, (rows, columns))
    return patches
