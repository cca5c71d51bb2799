"""The recipes: what each trains, and from what it starts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

RecipeName = Literal["auto", "probe", "one-vs-rest", "svm", "last-blocks", "stem-head", "all", "scratch"]
AUTO = "auto"
PROBE, ONE_VS_REST, SVM = "probe", "one-vs-rest", "svm"
LINEAR = (PROBE, ONE_VS_REST, SVM)
LAST_BLOCKS, STEM_HEAD, ALL_BLOCKS, SCRATCH = "last-blocks", "stem-head", "all", "scratch"
RECIPES = tuple(name for name in get_args(RecipeName) if name != AUTO)

GENTLE_RATE = 5e-4  # spoils no features that fit already
BOLD_RATE = 3e-3  # for features that must become others


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a recipe does with the blocks.

    Args:
        blocks: gives the numbers of the trained blocks, of the cut's position and the number of blocks.
        rate: the learning rate where none is asked for or chosen.
        patience: how many times the usual epochs it needs.
    """

    blocks: Callable[[int, int], range]
    rate: float = GENTLE_RATE
    patience: int = 1


def recipe_of(name: str) -> Recipe:
    """Find a recipe that trains something, or the one of the linear ones, which train no block."""
    return _RECIPES.get(name, _LINEAR)


_LINEAR = Recipe(blocks=lambda _, count: range(count, count))
_RECIPES = {
    LAST_BLOCKS: Recipe(blocks=range),
    STEM_HEAD: Recipe(blocks=lambda _, __: range(1)),
    ALL_BLOCKS: Recipe(blocks=lambda _, count: range(count)),
    SCRATCH: Recipe(blocks=lambda _, count: range(count), rate=BOLD_RATE, patience=2),
}
