"""Networks of a few thousand weights, for `--backbone support.tiny_networks:NAME`."""

import torch
from torch import nn


def colorful() -> nn.Module:
    """Build two convolutions, whose features tell colors apart."""
    return _network(8)


def wide() -> nn.Module:
    """Build the same with more channels, which takes longer."""
    return _network(96)


def blind() -> nn.Module:
    """Build a network whose features do not depend on the image, so that it classifies at random."""
    model = _network(8)
    torch.nn.init.zeros_(model[0].weight)
    return model


def overflowing() -> nn.Module:
    """Build a network whose weights are finite and whose features are not."""
    model = _network(8)
    for number in (0, 2, 4):
        torch.nn.init.constant_(model[number].weight, 1e30)
    return model


def _network(channels: int) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, channels, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
    )
    model.input_size = (3, 32, 32)  # type: ignore[assignment]
    return model


def uneven() -> nn.Module:
    """Build a network with one channel that is 200 times as large as the others, which become 0 in int8."""
    model = _network(8)
    with torch.no_grad():
        for number in (0, 2):
            model[number].weight[0] *= 200
            model[number].bias[0] *= 200
            model[number + 2].weight[:, 0] /= 200
    return model


def hidden_layers() -> nn.Sequential:
    """Build a network with linear layers before its features, so that activations between blocks are [N, F]."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    model = nn.Sequential(
        convolution,
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(1),
        nn.Linear(8, 8),
        nn.ReLU(),
        nn.Linear(8, 8),
        nn.ReLU(),
    )
    model.input_size = (3, 32, 32)  # type: ignore[assignment]
    return model


def hard_swishes() -> nn.Sequential:
    """Build a network whose activations are hard-swishes."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Hardswish(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.Hardswish(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.Hardswish(),
    )
    model.input_size = (3, 32, 32)  # type: ignore[assignment]
    return model


def separable() -> nn.Sequential:
    """Build a network with depthwise convolutions of two sizes."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 5, padding=2, groups=16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.ReLU(),
    )
    model.input_size = (3, 32, 32)  # type: ignore[assignment]
    return model
