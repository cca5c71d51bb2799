"""What checks annotations, array shapes among them, whenever a test calls one of our functions."""

import inspect
from collections.abc import Callable
from typing import Any, Self

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as type checkers see it


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let beartype check a function, but for methods that give `Self`, which it understands in whole classes only."""
    if Self in inspect.get_annotations(function).values():
        return function
    return _check(function)
