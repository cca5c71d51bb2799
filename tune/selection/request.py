"""What the options fix, and what they leave to the search."""

from unfreeze.contract.errors import CheckpointError
from unfreeze.tune.backbones.network import ALL, HEAD, Network
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.recipes.last_blocks import last_share
from unfreeze.tune.recipes.recipe import LinearRecipe
from unfreeze.tune.recipes.registry import AUTO, LAST_BLOCKS, block_recipe, is_linear, recipe_of
from unfreeze.tune.selection.candidate import Candidate


def requested_candidate(options: TuneOptions) -> Candidate | None:
    """Return the candidate that the options name; None if they leave a choice to the search."""
    name = options.requested_recipe
    if chooses_cut(options):
        return None
    recipe = recipe_of(name)
    if isinstance(recipe, LinearRecipe):
        return Candidate.linear(name)
    rates = (options.learning_rate,) if options.learning_rate else recipe.learning_rates
    return Candidate(name, requested_cut(options), rates[0]) if len(rates) == 1 else None


def chooses_cut(options: TuneOptions) -> bool:
    """Return whether the search has to choose a cut."""
    name = options.requested_recipe
    if name == AUTO:
        return True
    return options.cut == "auto" and not is_linear(name) and block_recipe(name).chooses_cut


def requested_cut(options: TuneOptions) -> str:
    """Return the requested cut of a recipe that trains blocks, if the search does not choose it."""
    return ALL if options.cut == "auto" else options.cut


def check_attention(network: Network, options: TuneOptions) -> None:
    """Check that a requested recipe that adapts the attention finds one.

    Raises:
        CheckpointError: no trained block has an attention.
    """
    name = options.requested_recipe
    if name == AUTO or is_linear(name) or not block_recipe(name).adapts:
        return
    first = network.position(requested_cut(options))
    if not network.has_attention(range(first, len(network.block_names))):
        raise CheckpointError(
            f"--recipe {name} adapts the linear layers of attentions, and {options.backbone} has none from the block "
            f"{network.block_names[first]} on; use --recipe {LAST_BLOCKS}"
        )


def earliest_cut(network: Network, options: TuneOptions) -> str:
    """Return the cut at which to cache activations before anything is chosen.

    Args:
        network: the network to cut.
        options: options of the run.

    Returns:
        The requested cut, or the middle if the search has to choose one.
    """
    if chooses_cut(options):
        return middle_cut(network)
    return HEAD if is_linear(options.requested_recipe) else requested_cut(options)


def middle_cut(network: Network) -> str:
    """Return the cut before the last half of the blocks."""
    return last_share(network.block_names, 2)
