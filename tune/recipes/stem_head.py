"""`--recipe stem-head`: the first block and the head, for images with other low-level statistics."""

from unfreeze.tune.recipes.recipe import GENTLE_LEARNING_RATE, BlockRecipe

RECIPE = BlockRecipe(
    name="stem-head",
    summary="the first block and the head",
    trained_blocks=lambda _, __: range(1),
    learning_rates=(GENTLE_LEARNING_RATE,),
)
