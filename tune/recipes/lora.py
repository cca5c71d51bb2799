"""`--recipe lora`: low-rank adapters of the attention, merged into its weights at the end (Hu et al. 2021)."""

from unfreeze.tune.recipes.recipe import BOLD_LEARNING_RATE, BlockRecipe

RECIPE = BlockRecipe(
    name="lora",
    summary="low-rank adapters of the attention's linear layers from `--cut` on, by default everywhere, and the head",
    trained_blocks=range,
    learning_rates=(BOLD_LEARNING_RATE,),
    adapts=True,
    accepts_cut=lambda cut: cut != "head",
)
