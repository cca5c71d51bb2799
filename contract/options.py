"""Validate options at construction."""

from collections.abc import Mapping
from typing import Any

from unfreeze.contract.errors import OptionsError


def check_ranges(options: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]) -> None:
    """Reject a number that is out of its range.

    Args:
        options: values by name.
        ranges: lowest and highest value allowed, by name; None is always allowed.

    Raises:
        OptionsError: a value is NaN or out of its range; the message names the option as a flag.
    """
    for name, (low, high) in ranges.items():
        value = options[name]
        if value is not None and not low <= value <= high:
            raise OptionsError(f"--{name.replace('_', '-')} must be between {low:,} and {high:,}, got {value}")
