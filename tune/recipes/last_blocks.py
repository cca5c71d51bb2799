"""`--recipe last-blocks`: the blocks from the cut on, and the head."""

import math
from collections.abc import Sequence

from unfreeze.tune.recipes.recipe import BlockRecipe, SearchScope


def last_share(block_names: Sequence[str], parts: int) -> str:
    """Return the cut before the last 1 / `parts` of the blocks, rounded up."""
    return block_names[-math.ceil(len(block_names) / parts)]


def _search_cuts(block_names: Sequence[str], scope: SearchScope) -> tuple[str, ...]:
    """Go from the last quarter of the blocks to the last half.

    With more than a few hundred images, or out of domain, only the half is tried: it is seldom worse than the quarter,
    and skipping the quarter saves a trial.
    """
    half = last_share(block_names, 2)
    return (last_share(block_names, 4), half) if scope.few_images and not scope.out_of_domain else (half,)


RECIPE = BlockRecipe(
    name="last-blocks",
    summary="the blocks from `--cut` on, and the head",
    trained_blocks=range,
    accepts_cut=lambda cut: cut != "head",
    chooses_cut=True,
    search_cuts=_search_cuts,
)
