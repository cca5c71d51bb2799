"""A small vision transformer of timm, as a backbone: `--backbone bench.vit.backbone:small_vit`."""

from timm.models.vision_transformer import VisionTransformer

SIDE_PX = 64
CONFIG = {
    "input_size": (3, SIDE_PX, SIDE_PX),
    "crop_pct": 1.0,
    "interpolation": "bilinear",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}


def small_vit(classes: int = 0) -> VisionTransformer:
    """Build a transformer of 6 blocks with random weights: 16 patches of 16 pixels and a class token, 96 features.

    Args:
        classes: number of classes of a classifier; 0 for none.
    """
    model = VisionTransformer(
        img_size=SIDE_PX, patch_size=16, embed_dim=96, depth=6, num_heads=3, mlp_ratio=3, num_classes=classes
    )
    vars(model)["pretrained_cfg"] = CONFIG
    return model
