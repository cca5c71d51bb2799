"""`--recipe all`: all blocks and the head, from pretrained weights."""

from unfreeze.tune.recipes.recipe import BlockRecipe

RECIPE = BlockRecipe(
    name="all",
    summary="all blocks and the head, from pretrained weights",
    trained_blocks=lambda _, count: range(count),
    accepts_cut=lambda cut: cut == "all",
    search_cuts=lambda _, scope: ("all",) if scope.out_of_domain else (),
)
