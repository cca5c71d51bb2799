"""Lists of backbones for usual purposes.

Each list spans its range of sizes in steps of about two in arithmetic, with the most accurate member of each size that
torchvision publishes, and more than one kind of layer: which kind is fast depends on the machine's kernels, and
which features fit depends on the images. Parameters, arithmetic per image and accuracy on ImageNet are those that
torchvision and timm publish with the weights.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A list of backbones.

    Args:
        summary: what they are for, in a few words.
        backbones: `NAME` or `NAME=WEIGHTS`.
    """

    summary: str
    backbones: tuple[str, ...]


PRESETS: dict[str, Preset] = {
    "edge": Preset(
        summary="up to 6 M parameters and 0.4 G multiply-adds, for phones and single-board computers",
        backbones=(
            "mobilenet_v3_small",  # 2.5 M, 0.06 G, 67.7 %
            "shufflenet_v2_x1_0",  # 2.3 M, 0.15 G, 69.4 %: no squeeze-and-excitation, quantizes well
            "mobilenet_v3_large",  # 5.5 M, 0.22 G, 75.3 %
            "squeezenet1_1",  # 1.2 M, 0.35 G, 58.2 %: the smallest file, plain convolutions
            "efficientnet_b0",  # 5.3 M, 0.39 G, 77.7 %
            "regnet_y_400mf",  # 4.3 M, 0.40 G, 75.8 %
            "timm/tf_efficientnet_lite0",  # 4.7 M, 0.40 G, 74.8 %: made to be quantized
            "mobilenet_v3_small=builtin",  # needs no download
        ),
    ),
    "small": Preset(
        summary="up to 26 M parameters and 4.1 G multiply-adds, for CPUs",
        backbones=(
            "mobilenet_v3_large",  # 5.5 M, 0.22 G, 75.3 %
            "efficientnet_b0",  # 5.3 M, 0.39 G, 77.7 %
            "regnet_y_800mf",  # 6.4 M, 0.83 G, 78.8 %
            "regnet_y_1_6gf",  # 11.2 M, 1.61 G, 80.9 %
            "resnet18",  # 11.7 M, 1.81 G, 69.8 %: plain convolutions are often faster than their arithmetic suggests
            "resnet50",  # 25.6 M, 4.09 G, 80.9 %
            "mobilenet_v3_small=builtin",  # 2.5 M, 0.06 G: needs no download
        ),
    ),
    "server": Preset(
        summary="20 to 90 M parameters and 3 to 18 G multiply-adds, for GPUs and many cores",
        backbones=(
            "regnet_y_3_2gf",  # 19.4 M, 3.2 G, 82.0 %
            "resnet50",  # 25.6 M, 4.1 G, 80.9 %
            "convnext_tiny",  # 28.6 M, 4.5 G, 82.5 %
            "swin_t",  # 28.3 M, 4.5 G, 81.5 %
            "efficientnet_v2_s",  # 21.5 M, 8.4 G, 84.2 %
            "regnet_y_8gf",  # 39.4 M, 8.5 G, 82.8 %
            "convnext_base",  # 88.6 M, 15.4 G, 84.1 %
            "vit_b_16",  # 86.6 M, 17.6 G, 81.1 %
            "mobilenet_v3_small=builtin",  # needs no download
        ),
    ),
}
