"""The registry: what each recipe trains, and that a recipe is added by a file and its registration."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.cli import run_cli
from support.images import write_images

from unfreeze.tune.artifacts.checkpoint import load_run
from unfreeze.tune.backbones.weights import load_pretrained
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.recipes.recipe import (
    BOLD_LEARNING_RATE,
    BOTH_LEARNING_RATES,
    GENTLE_LEARNING_RATE,
    BlockRecipe,
    LinearRecipe,
    SearchScope,
)
from unfreeze.tune.recipes.registry import (
    block_recipe,
    block_recipes,
    linear_recipe,
    linear_recipes,
    recipe_names,
    recipe_of,
    recipe_table,
    register,
    unregister,
)
from unfreeze.tune.run import fine_tune
from unfreeze.tune.selection.request import requested_candidate

SECOND_BLOCK = BlockRecipe(
    name="second-block",
    summary="the second block and the head",
    trained_blocks=lambda _, __: range(1, 2),
    learning_rates=(1e-3,),
)
DOCS = Path(__file__).parents[3] / "docs" / "recipes.md"


@pytest.fixture
def second_block() -> Iterator[BlockRecipe]:
    """A recipe that is registered during a test."""
    register(SECOND_BLOCK)
    yield SECOND_BLOCK
    unregister(SECOND_BLOCK.name)


@pytest.mark.parametrize(
    ("recipe", "blocks"),
    [
        ("probe", []),
        ("one-vs-rest", []),
        ("svm", []),
        ("last-blocks", [3, 4]),
        ("lora", [3, 4]),
        ("stem-head", [0]),
        ("all", [0, 1, 2, 3, 4]),
        ("scratch", [0, 1, 2, 3, 4]),
    ],
)
def test_each_recipe_trains_its_blocks(recipe: str, blocks: list[int]) -> None:
    """Of five blocks and a cut before the fourth, a recipe trains the blocks in its name."""
    position = 3 if recipe in ("last-blocks", "lora") else 0
    assert list(recipe_of(recipe).trained_blocks(position, 5)) == blocks


def test_linear_and_block_recipes_make_up_the_registry() -> None:
    """The recipes are listed in the order of their cost; those of the other kind are rejected by name."""
    assert recipe_names() == ("probe", "one-vs-rest", "svm", "last-blocks", "lora", "stem-head", "all", "scratch")
    assert (*linear_recipes(), *block_recipes()) == tuple(map(recipe_of, recipe_names()))
    with pytest.raises(TypeError, match="all is not a linear recipe"):
        linear_recipe("all")
    with pytest.raises(TypeError, match="svm trains no blocks"):
        block_recipe("svm")


def test_learning_rates_and_epochs_of_recipes() -> None:
    """Two learning rates are compared for pretrained features; only training from scratch is bold and long."""
    found = {recipe.name: (recipe.learning_rates, recipe.epoch_factor) for recipe in block_recipes()}
    assert found == {
        "last-blocks": (BOTH_LEARNING_RATES, 1),
        "lora": ((BOLD_LEARNING_RATE,), 1),
        "stem-head": ((GENTLE_LEARNING_RATE,), 1),
        "all": (BOTH_LEARNING_RATES, 1),
        "scratch": ((BOLD_LEARNING_RATE,), 2),
    }


@pytest.mark.parametrize(
    ("few_images", "out_of_domain", "steps"),
    [
        (True, False, [("last-blocks", "c"), ("last-blocks", "b")]),
        (False, False, [("last-blocks", "b")]),
        (True, True, [("last-blocks", "b"), ("all", "all")]),
        (False, True, [("last-blocks", "b"), ("all", "all")]),
    ],
)
def test_search_goes_from_late_to_early_cuts(
    few_images: bool,  # noqa: FBT001
    out_of_domain: bool,  # noqa: FBT001
    steps: list[tuple[str, str]],
) -> None:
    """Of three blocks, the last third or two thirds are tried, and all blocks only out of domain."""
    scope = SearchScope(few_images=few_images, out_of_domain=out_of_domain)
    found = [(one.name, cut) for one in block_recipes() for cut in one.search_cuts(("a", "b", "c"), scope)]
    assert found == steps


def test_rejects_a_name_that_is_taken() -> None:
    """Neither a registered name nor "auto" can be registered."""
    for name in ("auto", "probe"):
        taken = LinearRecipe(name=name, summary="", make_solver=recipe_of("probe").make_solver, link="softmax")
        with pytest.raises(ValueError, match=f"already a recipe named '{name}'"):
            register(taken)


def test_docs_have_the_table_of_the_registry() -> None:
    """`docs/recipes.md` contains the table that is derived from the registered recipes."""
    assert recipe_table() in DOCS.read_text(encoding="utf-8"), f"expected in {DOCS}:\n{recipe_table()}"


def test_help_lists_every_recipe() -> None:
    """The help of `--recipe` has the name and the summary of each one, and groups the options."""
    shown = re.sub(r"[\s│]+", " ", run_cli("tune", "--help").stdout)
    for name in recipe_names():
        assert f'"{name}" ({recipe_of(name).summary.replace("`", "")})' in shown
    assert f"[choices: auto, {', '.join(recipe_names())}]" in shown
    assert all(f"─ {group} ─" in shown for group in ("Data", "Backbone", "Recipe", "Training", "Output"))


def test_a_registered_recipe_is_an_option(second_block: BlockRecipe) -> None:
    """Its name is accepted, and its only learning rate is used without a trial."""
    candidate = requested_candidate(TuneOptions(recipe=second_block.name))
    assert candidate[:3] == ("second-block", "all", 1e-3)
    assert "| `second-block` | the second block and the head | 0.001 |" in recipe_table()


def test_a_registered_recipe_tunes_end_to_end(second_block: BlockRecipe, tmp_path: Path) -> None:
    """A run with a new recipe trains the blocks that the recipe names and no others."""
    data = write_images(tmp_path / "data", 3)
    options = TuneOptions(recipe=second_block.name, weights="builtin", device="cpu", epochs=1)
    metrics = fine_tune(data, tmp_path / "run", options)
    assert (metrics["recipe"], metrics["learning_rate"]) == ("second-block", 1e-3)
    before = load_pretrained("mobilenet_v3_small", "builtin").model.state_dict()
    tuned = load_run(tmp_path / "run")[0].model.state_dict()
    changed = {key.split(".")[1] for key, value in tuned.items() if not torch.equal(value, before[key])}
    assert changed == {"1"}


def test_a_recipe_registered_before_the_command_is_a_choice() -> None:
    """A program that registers a recipe before it imports the command line has it among the choices and in the help."""
    program = """
import sys
from unfreeze.tune.recipes.recipe import BlockRecipe
from unfreeze.tune.recipes.registry import register
register(BlockRecipe(name="second-block", summary="the second block", trained_blocks=lambda _, __: range(1, 2)))
from unfreeze.command import app
app(["tune", "--help"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    shown = re.sub(r"[\s│]+", " ", done.stdout)
    assert '"second-block" (the second block)' in shown
    assert "scratch, second-block]" in shown


def test_the_search_tries_every_registered_linear_recipe(tmp_path: Path) -> None:
    """`auto` compares a linear recipe that was registered with the others."""
    twin = LinearRecipe(name="twin", summary="the probe", make_solver=recipe_of("probe").make_solver, link="softmax")
    register(twin)
    try:
        data = write_images(tmp_path / "data", 4)
        options = TuneOptions(weights="builtin", device="cpu", epochs=1, learning_rate=5e-4)
        fine_tune(data, tmp_path / "run", options)
    finally:
        unregister("twin")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [score["recipe"] for score in metrics["candidates"]][:4] == ["probe", "one-vs-rest", "svm", "twin"]
