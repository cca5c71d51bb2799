"""The pretrained network, and the file of its features."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import mobilenet_v3_small

from bench.pretrain.augment import MEAN, STD

BACKBONE = "mobilenet_v3_small"
WIDTH = 576
TUNING_SIDE_PX = 160


def build_network(classes: int, seed: int) -> nn.Sequential:
    """Build MobileNetV3-Small's features (Howard et al., ICCV 2019) with a linear head on pooled features.

    Args:
        classes: Number of classes.
        seed: Random seed of the initial weights.

    Returns:
        The network, in channels-last memory format; its first module is the features.
    """
    torch.manual_seed(seed)
    features = mobilenet_v3_small(weights=None).features
    head = nn.Linear(WIDTH, classes)
    network = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), head)
    return network.to(memory_format=torch.channels_last)


def save_features(weights: dict[str, torch.Tensor], out: Path, notes: dict[str, str]) -> None:
    """Write only the features, in half precision, with torchvision's parameter names.

    Args:
        weights: State dict of a network from `build_network`.
        out: The safetensors file; replaced atomically.
        notes: Additional metadata, such as the number of steps.
    """
    features = {f"features.{name[2:]}": _halve(value) for name, value in weights.items() if name.startswith("0.")}
    spec = {
        "resize": [TUNING_SIDE_PX],
        "crop": [TUNING_SIDE_PX, TUNING_SIDE_PX],
        "interpolation": "bilinear",
        "mean": list(MEAN),
        "std": list(STD),
    }
    about = {"backbone": BACKBONE, "preprocess": json.dumps(spec), "license": "Apache-2.0", "format": "pt"}
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_suffix(".part")
    save_file(features, unfinished, {**about, **notes})
    unfinished.chmod(0o644)
    unfinished.replace(out)


def _halve(value: torch.Tensor) -> torch.Tensor:
    return (value.half() if value.is_floating_point() else value).contiguous()
