"""Check options where they are built."""

from collections.abc import Mapping
from typing import Any

from unfreeze.contract.errors import OptionsError


def check_ranges(options: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuse a number that is out of its range.

    Args:
        options: values by name.
        ranges: lowest and highest value allowed, by name; None is always let pass.

    Raises:
        OptionsError: naming the first that is not; NaN never is.
    """
    for name, (low, high) in ranges.items():
        value = options[name]
        if value is not None and not low <= value <= high:
            raise OptionsError(f"--{name.replace('_', '-')} goes from {low:,} to {high:,}, found {value}")
