"""Choose the range of values that is mapped to 0..255 in images of more than 8 bits."""

import math
from collections.abc import Iterator
from pathlib import Path

from unfreeze.contract.counted import counted
from unfreeze.contract.errors import DataError
from unfreeze.contract.images.depth import DeepRange, PixelRange
from unfreeze.contract.images.preprocess import check_deep_range
from unfreeze.tune.data.images import TRAIN
from unfreeze.tune.data.inspection.findings import Finding, finding, path_name
from unfreeze.tune.data.inspection.fingerprints import Fingerprints
from unfreeze.tune.options import AUTO_RANGE, FULL_RANGE, parse_deep_range

_BITS_16 = 16
_FULL: DeepRange = (0.0, 65535.0)
_ROUNDING = 1e-5  # of a step; keeps 0.98 in float32 from being rounded to the next step
_SENSOR_BITS = (8, 10, 12, 14, 16)  # of cameras and detectors; the brightest image may not be in the training images
_SMALL_SHARE = 1 / 15  # of a range; 12 of 16 bits are a sixteenth


def choose_deep_range(requested: str, prints: Fingerprints) -> DeepRange | None:
    """Choose the range from the training images.

    For integers that are not negative, "auto" is the range of the bits that they use, rounded up to 8, 10, 12, 14 or 16
    bits: 0 to 4095 for 12. For other values it is the lowest to the highest, rounded outward to two digits.

    Args:
        requested: "auto", "full" or "LOW,HIGH".
        prints: fingerprints of the images.

    Returns:
        (low, high), or None for the full range of 16 bits.

    Raises:
        DataError: the values of floating-point images are too large for a range.
    """
    if requested == FULL_RANGE:
        return None
    if requested != AUTO_RANGE:
        return parse_deep_range(requested)
    ranges = _training_ranges(prints)
    if not ranges:
        return None
    low, high = min(used.low for used in ranges), max(used.high for used in ranges)
    if all(used.mode != "F" for used in ranges) and low >= 0:
        used_bits = max(used.bits_used for used in ranges)
        bits = next((bits for bits in _SENSOR_BITS if bits >= used_bits), used_bits)
        is_full = (used_bits == 0 or bits == _BITS_16) and all(used.mode == "I;16" for used in ranges)
        return None if is_full else (0.0, float(2**bits - 1))
    chosen = _rounded(low, high)
    try:
        check_deep_range(chosen)
    except ValueError:
        raise DataError(
            f"the training images hold values from {low:g} to {high:g}; no range can be chosen for them: give "
            "--deep-range LOW,HIGH"
        ) from None
    return chosen


def _rounded(low: float, high: float) -> DeepRange:
    """Widen a range to two significant digits of its length."""
    if high <= low:
        return (low, low + max(1.0, abs(low)))
    step = 10.0 ** (math.floor(math.log10(high - low)) - 1)
    digits = max(0, -math.floor(math.log10(step)))
    steps = math.floor(low / step + _ROUNDING), math.ceil(high / step - _ROUNDING)
    return (round(steps[0] * step, digits), round(steps[1] * step, digits))


def describe_deep_range(prints: Fingerprints, chosen: DeepRange | None) -> Iterator[str]:
    """Say in one line which values become 0 and 255, if there are training images of more than 8 bits."""
    ranges = _training_ranges(prints)
    if ranges:
        low, high = chosen or _FULL
        images = counted(len(ranges), "training image has", "training images have")
        yield f"{images} more than 8 bits: values from {low:.15g} to {high:.15g} are mapped to 0..255 (--deep-range)"


def find_deep_images(root: Path, prints: Fingerprints, chosen: DeepRange | None) -> Iterator[Finding]:
    """Report images of more than 8 bits that use a small part of a range: of 16 bits, or of the range that is used.

    Args:
        root: the folder of the dataset.
        prints: fingerprints of its images.
        chosen: the range that is used.
    """
    pairs = zip(prints.images, prints.ranges, strict=True)
    deep = {path_name(image.path, root): used for image, used in pairs if used is not None}
    span = chosen or _FULL
    yield _narrowed(deep, span)
    yield _low_contrast(deep, span)


def _narrowed(deep: dict[str, PixelRange], span: DeepRange) -> Finding:
    """Report 16-bit images that use few of their bits, if the chosen range accounts for it."""
    in_16_bits = {path: used for path, used in deep.items() if used.mode == "I;16"}
    paths = [path for path, used in in_16_bits.items() if span[1] < _FULL[1] and _share(used, _FULL) <= _SMALL_SHARE]
    bits = max((used.bits_used for used in in_16_bits.values()), default=0)
    text = (
        f"{counted(len(paths), '16-bit image uses', '16-bit images use')} at most {bits} bits; values from "
        f"{span[0]:.15g} to {span[1]:.15g} are mapped to 0..255; to set another range, give --deep-range LOW,HIGH"
    )
    return finding("deep-range", text, paths, handled=True)


def _low_contrast(deep: dict[str, PixelRange], span: DeepRange) -> Finding:
    """Report images that use a small part of the range that is used."""
    paths = [path for path, used in deep.items() if _share(used, span) <= _SMALL_SHARE]
    low = min((used.low for used in deep.values()), default=0.0)
    high = max((used.high for used in deep.values()), default=0.0)
    text = (
        f"{counted(len(paths), 'image')} of more than 8 bits {'uses' if len(paths) == 1 else 'use'} less than a "
        f"fifteenth of the values from {span[0]:.15g} to {span[1]:.15g} that are mapped to 0..255, so that they have "
        f"hardly any contrast; give --deep-range {low:.15g},{high:.15g}, or one that fits these images"
    )
    return finding("deep-contrast", text, paths)


def _share(used: PixelRange, span: DeepRange) -> float:
    low, high = span
    return (min(used.high, high) - max(used.low, low)) / (high - low)


def _training_ranges(prints: Fingerprints) -> list[PixelRange]:
    pairs = zip(prints.splits, prints.ranges, strict=True)
    return [used for split, used in pairs if split == TRAIN and used is not None]
