"""Check options where they are built."""

from collections.abc import Mapping

from contract.errors import OptionsError


def check_ranges(options: object, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuse a number that is out of its range.

    Args:
        options: whose attributes are checked.
        ranges: lowest and highest value allowed, by attribute; None is always let pass.

    Raises:
        OptionsError: naming the first that is not; NaN never is.
    """
    for name, (low, high) in ranges.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise OptionsError(f"--{name.replace('_', '-')} goes from {low:,} to {high:,}, found {value}")
