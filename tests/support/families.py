"""A small member of every family of torchvision's classifiers: the same graph with fewer or narrower layers.

The first part of a key is the name of the builder whose family it belongs to; several members are told apart by what
follows a colon.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import FusedMBConvConfig, MBConvConfig
from torchvision.models.regnet import BlockParams
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
from torchvision.models.vgg import make_layers

SIZES = {"inception_v3": 96, "vit_b_16": 32}  # the others take images of 64 by 64
_CLASSES = 10
_NO_AUXILIARIES = {"aux_logits": False, "transform_input": True, "init_weights": False}


def small_model(key: str) -> nn.Module:
    """Build a small member of a family with random weights, the same each time, in eval mode."""
    torch.manual_seed(0)
    return SMALL_MODELS[key]().eval()


def builder_of(key: str) -> str:
    """Return the name of the builder whose family a key of `SMALL_MODELS` stands for."""
    return key.partition(":")[0]


def image_size(key: str) -> int:
    """Return the height and width of the images that a model takes."""
    return SIZES.get(key, 64)


def _alexnet() -> nn.Module:
    with torch.device("meta"):  # its own classifier has millions of weights, which are never allocated
        model = models.AlexNet(num_classes=_CLASSES)
    model.features = _alexnet_features()
    model.classifier = nn.Sequential(nn.Dropout(), nn.Linear(24 * 36, _CLASSES))
    return model


def _alexnet_features() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 11, 4, 2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(8, 16, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(24, 24, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
    )


def _vgg(*, batch_norm: bool) -> nn.Module:
    layers = make_layers([8, "M", 8, "M", 16, 16, "M", 16, "M", 16, "M"], batch_norm=batch_norm)
    with torch.device("meta"):
        model = models.VGG(layers, num_classes=_CLASSES, init_weights=False)
    model.classifier = nn.Sequential(nn.Linear(16 * 49, _CLASSES))
    return model


def _regnet() -> nn.Module:
    params = BlockParams(
        depths=[1, 1, 1, 1],
        widths=[16, 16, 32, 32],
        group_widths=[8, 8, 8, 8],
        bottleneck_multipliers=[1.0] * 4,
        strides=[2] * 4,
        se_ratio=0.25,
    )
    return models.RegNet(params, num_classes=_CLASSES)


def _efficientnet() -> nn.Module:
    settings = [
        FusedMBConvConfig(1, 3, 1, 8, 8, 1),
        MBConvConfig(1, 3, 1, 8, 8, 1, 1.0, 1.0),
        MBConvConfig(6, 3, 2, 8, 12, 2, 1.0, 1.0),
    ]
    return models.EfficientNet(settings, dropout=0.2, last_channel=32, num_classes=_CLASSES)


def _convnext() -> nn.Module:
    settings = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 1)]
    return models.ConvNeXt(settings, num_classes=_CLASSES)


_swin = partial(
    models.SwinTransformer,
    patch_size=[4, 4],
    embed_dim=8,
    depths=[1, 1, 1, 2],
    num_heads=[1, 2, 2, 2],
    window_size=[4, 4],
    num_classes=_CLASSES,
)


def _maxvit() -> nn.Module:
    return models.MaxVit(
        input_size=(64, 64),
        stem_channels=8,
        partition_size=2,
        block_channels=[8, 8, 16, 16],
        block_layers=[1, 1, 1, 1],
        head_dim=4,
        stochastic_depth_prob=0.2,
        num_classes=_CLASSES,
    )


def _vit() -> nn.Module:
    return models.VisionTransformer(
        image_size=32,
        patch_size=16,
        num_layers=3,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=24,
        num_classes=_CLASSES,
    )


SMALL_MODELS: dict[str, Callable[[], nn.Module]] = {
    "alexnet": _alexnet,
    "vgg11": partial(_vgg, batch_norm=False),
    "vgg11:bn": partial(_vgg, batch_norm=True),
    "resnet18": lambda: models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=_CLASSES),
    "resnext50_32x4d": lambda: models.ResNet(Bottleneck, [1, 1, 1, 1], _CLASSES, groups=8, width_per_group=4),
    "wide_resnet50_2": lambda: models.ResNet(Bottleneck, [1, 1, 1, 1], _CLASSES, width_per_group=32),
    "regnet_y_400mf": _regnet,
    "squeezenet1_1": lambda: models.squeezenet1_1(num_classes=_CLASSES),
    "mobilenet_v2": lambda: models.MobileNetV2(_CLASSES, inverted_residual_setting=[[1, 8, 1, 1], [6, 12, 2, 2]]),
    "mobilenet_v3_small": lambda: models.mobilenet_v3_small(num_classes=_CLASSES),
    "efficientnet_b0": _efficientnet,
    "convnext_tiny": _convnext,
    "densenet121": lambda: models.DenseNet(4, (2, 2, 2, 2), 8, num_classes=_CLASSES),
    "shufflenet_v2_x0_5": lambda: models.ShuffleNetV2([1, 2, 1], [8, 16, 24, 32, 48], _CLASSES),
    "mnasnet0_5": lambda: models.MNASNet(0.25, _CLASSES),
    "googlenet": lambda: models.GoogLeNet(_CLASSES, **_NO_AUXILIARIES),
    "inception_v3": lambda: models.Inception3(_CLASSES, **_NO_AUXILIARIES),
    "swin_t": _swin,
    "swin_t:v2": partial(_swin, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2),
    "maxvit_t": _maxvit,
    "vit_b_16": _vit,
}
