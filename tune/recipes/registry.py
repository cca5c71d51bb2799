"""The registered recipes, in the order in which the automatic search tries them: the cheapest first."""

from unfreeze.tune.recipes import all_blocks, last_blocks, lora, one_vs_rest, probe, scratch, stem_head, svm
from unfreeze.tune.recipes.recipe import BlockRecipe, LinearRecipe, Recipe

AUTO = "auto"
PROBE, LAST_BLOCKS, ALL_BLOCKS = probe.RECIPE.name, last_blocks.RECIPE.name, all_blocks.RECIPE.name

_REGISTERED: dict[str, Recipe] = {}


def register(recipe: Recipe) -> None:
    """Make a recipe available to `--recipe`, to the automatic search and to the help texts.

    Args:
        recipe: the recipe; its name must be new.

    Raises:
        ValueError: the name is taken.
    """
    if recipe.name == AUTO or recipe.name in _REGISTERED:
        raise ValueError(f"there is already a recipe named {recipe.name!r}; choose another name")
    _REGISTERED[recipe.name] = recipe


def unregister(name: str) -> None:
    """Remove a recipe that `register` added.

    Raises:
        KeyError: there is no such recipe.
    """
    del _REGISTERED[name]


register(probe.RECIPE)
register(one_vs_rest.RECIPE)
register(svm.RECIPE)
register(last_blocks.RECIPE)
register(lora.RECIPE)
register(stem_head.RECIPE)
register(all_blocks.RECIPE)
register(scratch.RECIPE)


def recipe_names() -> tuple[str, ...]:
    """Return the names of all recipes, without "auto"."""
    return tuple(_REGISTERED)


def recipe_of(name: str) -> Recipe:
    """Return the recipe with this name.

    Raises:
        KeyError: there is no such recipe.
    """
    return _REGISTERED[name]


def is_linear(name: str) -> bool:
    """Return whether a recipe is a linear classifier on frozen features."""
    return isinstance(_REGISTERED.get(name), LinearRecipe)


def is_teachable(name: str) -> bool:
    """Return whether a recipe can train on a teacher's answers, as "auto" can.

    It needs a softmax. From random weights, short trials could not judge a teacher.
    """
    recipe = _REGISTERED.get(name)
    if isinstance(recipe, LinearRecipe):
        return recipe.link == "softmax"
    return recipe is None or recipe.pretrained


def linear_recipe(name: str) -> LinearRecipe:
    """Return the linear recipe with this name.

    Raises:
        TypeError: the recipe trains blocks.
    """
    recipe = recipe_of(name)
    if not isinstance(recipe, LinearRecipe):
        raise TypeError(f"{name} is not a linear recipe")
    return recipe


def block_recipe(name: str) -> BlockRecipe:
    """Return the recipe with this name, which trains blocks.

    Raises:
        TypeError: the recipe is linear.
    """
    recipe = recipe_of(name)
    if not isinstance(recipe, BlockRecipe):
        raise TypeError(f"{name} trains no blocks")
    return recipe


def linear_recipes() -> tuple[LinearRecipe, ...]:
    """Return the linear recipes."""
    return tuple(recipe for recipe in _REGISTERED.values() if isinstance(recipe, LinearRecipe))


def block_recipes() -> tuple[BlockRecipe, ...]:
    """Return the recipes that train blocks."""
    return tuple(recipe for recipe in _REGISTERED.values() if isinstance(recipe, BlockRecipe))


def recipe_help() -> str:
    """Describe all choices of `--recipe` in one sentence."""
    named = "; ".join(f'"{recipe.name}" ({recipe.summary.replace("`", "")})' for recipe in _REGISTERED.values())
    return f'what to train: "{AUTO}" (chosen by cross-validation); {named}.'


def recipe_table() -> str:
    """Describe all recipes as a Markdown table, which `docs/recipes.md` contains."""
    rows = [f"| `{recipe.name}` | {recipe.summary} | {_learning_rates(recipe)} |" for recipe in _REGISTERED.values()]
    return "\n".join(["| `--recipe` | what it trains | default learning rate |", "|---|---|---|", *rows])


def _learning_rates(recipe: Recipe) -> str:
    if isinstance(recipe, LinearRecipe):
        return "none"
    values = " or ".join(f"{value:g}" for value in recipe.learning_rates)
    return f"{values}, by cross-validation" if len(recipe.learning_rates) > 1 else values
