"""The preprocessing that timm's configuration of a model describes."""

import math
from collections.abc import Mapping
from typing import Any, Literal, cast

from unfreeze.contract.errors import WeightsError
from unfreeze.contract.images.preprocess import PreprocessSpec

_DEFAULT_CROP_PCT = 0.875
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")


def preprocess_from_config(config: Mapping[str, Any], what: str) -> PreprocessSpec:
    """Convert timm's `pretrained_cfg` as timm's evaluation transforms do.

    Args:
        config: `input_size` and, optionally, `crop_pct`, `crop_mode`, `interpolation`, `mean` and `std`.
        what: names the model in errors.

    Raises:
        WeightsError: a value is missing or invalid, or the crop mode is "border".
    """
    mode = config.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise WeightsError(f"{what} is prepared with crop_mode {mode!r}; supported: center and squash")
    interpolation = config.get("interpolation") or "bicubic"
    size = config.get("input_size")
    if not isinstance(size, list | tuple) or len(size) != 3 or size[0] != 3:  # noqa: PLR2004
        raise WeightsError(f"the input_size of {what} must be (3, height, width), got {size}")
    try:
        height, width = int(size[1]), int(size[2])
        share = float(config.get("crop_pct") or _DEFAULT_CROP_PCT)
        resize = tuple(max(side, math.floor(side / share)) for side in (height, width))
        return PreprocessSpec(
            # Of a size that is not square, timm covers both sides: for square images, as here, the longer one decides.
            resize=resize if mode == "squash" else (max(resize),),
            crop=(height, width),
            interpolation=cast("Literal['bicubic']", interpolation if interpolation in _FILTERS else "bicubic"),
            mean=tuple(float(value) for value in config.get("mean") or _IMAGENET_MEAN),
            std=tuple(float(value) for value in config.get("std") or _IMAGENET_STD),
        )
    except (TypeError, ValueError) as error:
        raise WeightsError(f"the configuration of {what} has no valid preprocessing: {error!r}") from None
