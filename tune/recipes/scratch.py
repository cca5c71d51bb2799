"""`--recipe scratch`: all blocks and the head, from random weights."""

from unfreeze.tune.recipes.recipe import BOLD_LEARNING_RATE, BlockRecipe

RECIPE = BlockRecipe(
    name="scratch",
    summary="all blocks and the head, from random weights",
    trained_blocks=lambda _, count: range(count),
    learning_rates=(BOLD_LEARNING_RATE,),
    epoch_factor=2,
    pretrained=False,
    accepts_cut=lambda cut: cut == "all",
)
