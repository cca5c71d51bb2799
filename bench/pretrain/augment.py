"""Random augmentation of a batch: crops, rotations, flips and color changes."""

import numpy as np
import torch
from torch.nn import functional

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalize(images: np.ndarray) -> torch.Tensor:
    """Normalize images as the backbone expects them.

    Args:
        images: [n, h, w, 3], uint8.

    Returns:
        Normalized images, [n, 3, h, w], float32, in channels-last memory format.
    """
    return _standardize(_to_planes(images))


def augment(images: np.ndarray, size_px: int, seed: int) -> torch.Tensor:
    """Randomly crop, rotate, flip and recolor every image, preserving its aspect ratio.

    Args:
        images: [n, h, w, 3], uint8.
        size_px: Side of the crops in pixels.
        seed: Random seed of the batch.

    Returns:
        Normalized images, [n, 3, size, size], float32.
    """
    generator = torch.Generator().manual_seed(seed)
    planes = _to_planes(images)
    frames = _draw_frames(len(planes), generator)
    grid = functional.affine_grid(frames, [len(planes), 3, size_px, size_px], align_corners=False)
    crops = functional.grid_sample(planes, grid, padding_mode="reflection", align_corners=False)
    return _standardize(_recolor(crops, generator))


def _draw_frames(count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw affine maps [n, 2, 3]: crops of 55 to 95 % of the side, quarter turns plus small rotations, and flips."""

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    scale = uniform(0.55, 0.95)
    turn = torch.randint(4, (count,), generator=generator) * (torch.pi / 2) + uniform(-0.15, 0.15)
    flip = torch.randint(2, (count,), generator=generator) * 2.0 - 1.0
    cosine, sine = scale * turn.cos(), scale * turn.sin()
    x, y = uniform(-1.0, 1.0) * (1 - scale), uniform(-1.0, 1.0) * (1 - scale)
    rows = [torch.stack([cosine * flip, -sine, x], -1), torch.stack([sine * flip, cosine, y], -1)]
    return torch.stack(rows, 1)


def _recolor(planes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mix the channels, invert some images, convert some to gray, and change contrast and brightness."""
    count = len(planes)
    draw = torch.rand((count, 4, 1, 1, 1), generator=generator)
    mix = torch.eye(3) + 0.25 * torch.randn((count, 3, 3), generator=generator)
    mix = mix[:, torch.randperm(3, generator=generator)]
    mix = torch.where(draw[:, 0, :, :, 0] < 0.1, torch.full((3, 3), 1 / 3), mix)  # noqa: PLR2004
    gain = torch.where(draw[:, 1] < 0.3, -1.0, 1.0) * (0.6 + 0.8 * draw[:, 2])  # noqa: PLR2004
    mix = mix * gain[:, 0]
    offset = 0.5 + 0.3 * (draw[:, 3, 0] - 0.5) - 0.5 * mix.sum(2, keepdim=True)
    return torch.baddbmm(offset, mix, planes.flatten(2)).clamp_(0, 1).view_as(planes)


def _to_planes(images: np.ndarray) -> torch.Tensor:
    """Convert to [n, 3, h, w] in [0, 1]; transposing bytes is several times faster than transposing floats."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float().div_(255)


def _standardize(planes: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return planes.sub(mean).div_(std).contiguous(memory_format=torch.channels_last)
