"""Modules as a user would write them, for `--backbone own_modules:function`."""

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """Three stages and a classifier."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.ReLU())
        self.top = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU())
        self.output = nn.Linear(2 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Classify."""
        return self.output(self.top(self.middle(self.stem(images))).mean((2, 3)))


def declared() -> nn.Module:
    """Declare an input size alone."""
    model = Small()
    model.input_size = (3, 32, 48)
    return model


def configured(pretrained: bool = True, img_size: tuple[int, int] = (40, 40)) -> nn.Module:  # noqa: FBT001, FBT002
    """Declare what timm's models declare; pretrained weights are ones."""
    model = Small()
    if pretrained:
        nn.init.ones_(model.stem[0].weight)
    model.built_for = img_size
    model.pretrained_cfg = {
        "input_size": (3, 40, 40),
        "crop_pct": 0.8,
        "interpolation": "bilinear",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    return model


def headless() -> nn.Module:
    """Return features: there is no classifier to remove."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1))
    model.input_size = (3, 32, 32)
    return model


def undeclared() -> nn.Module:
    """Declare nothing."""
    return Small()


def no_module() -> object:
    """Return a tensor."""
    return torch.zeros(3)


def failing() -> nn.Module:
    """Raise."""
    raise KeyError("no such file: weights.pth")


not_a_function = 3
