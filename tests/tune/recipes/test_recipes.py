"""Recipes and options: what each asks for, what contradicts itself, and for how long it trains."""

import math

import pytest

from unfreeze.contract.errors import OptionsError
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.recipes.registry import BOLD_RATE, GENTLE_RATE, LINEAR, RECIPES, recipe_of


@pytest.mark.parametrize(
    ("recipe", "blocks"),
    [
        ("probe", []),
        ("one-vs-rest", []),
        ("svm", []),
        ("last-blocks", [3, 4]),
        ("stem-head", [0]),
        ("all", [0, 1, 2, 3, 4]),
        ("scratch", [0, 1, 2, 3, 4]),
    ],
)
def test_each_recipe_trains_its_blocks(recipe: str, blocks: list[int]) -> None:
    """Of five blocks and a cut before the fourth, the trained ones are those that the recipe's name says."""
    position = 3 if recipe == "last-blocks" else 0
    assert list(recipe_of(recipe).blocks(position, 5)) == blocks


def test_every_recipe_that_can_be_asked_for_is_known() -> None:
    """All names but "auto" are recipes; three of them are linear; only from scratch steps are large and many."""
    assert RECIPES == ("probe", "one-vs-rest", "svm", "last-blocks", "stem-head", "all", "scratch")
    assert set(LINEAR) < set(RECIPES)
    unusual = {name: (recipe_of(name).rate, recipe_of(name).patience) for name in RECIPES}
    assert unusual.pop("scratch") == (BOLD_RATE, 2)
    assert set(unusual.values()) == {(GENTLE_RATE, 1)}


@pytest.mark.parametrize(
    ("recipe", "cut"),
    [
        *((linear, cut) for linear in LINEAR for cut in ("all", "layer4")),
        *((whole, cut) for whole in ("all", "scratch") for cut in ("head", "layer4")),
        *(("stem-head", cut) for cut in ("head", "all", "conv1", "layer4")),
        ("last-blocks", "head"),
    ],
)
def test_a_recipe_and_a_cut_that_contradict_each_other_are_refused(recipe: str, cut: str) -> None:
    """The message names both, and what to do."""
    expected = rf"^--cut {cut} does not go with --recipe {recipe}; leave one of them out, or use --recipe last-blocks"
    with pytest.raises(OptionsError, match=expected):
        TuneOptions(recipe=recipe, cut=cut)


@pytest.mark.parametrize(
    ("recipe", "cut", "asked"),
    [
        ("auto", "auto", "auto"),
        ("auto", "head", "probe"),
        ("auto", "all", "all"),
        ("auto", "layer4", "last-blocks"),
        ("svm", "head", "svm"),
        ("svm", "auto", "svm"),
        ("all", "all", "all"),
        ("scratch", "all", "scratch"),
        ("scratch", "auto", "scratch"),
        ("stem-head", "auto", "stem-head"),
        ("last-blocks", "layer4", "last-blocks"),
        ("last-blocks", "all", "last-blocks"),
        ("last-blocks", "auto", "last-blocks"),
    ],
)
def test_a_cut_may_ask_for_its_recipe(recipe: str, cut: str, asked: str) -> None:
    """Where no recipe is named the cut tells which; one that is named stays, and a fitting cut does no harm."""
    assert TuneOptions(recipe=recipe, cut=cut).asked_recipe == asked


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("patience", -1),
        ("views", 0),
        ("batch_size", 1),
        ("seed", -1),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("weight_decay", -0.1),
        ("label_smoothing", 1.0),
        ("mixup", -0.5),
        ("val_fraction", 0.0),
        ("cache_gb", -1.0),
        ("abstain_precision", 1.0),
    ],
)
def test_values_out_of_their_range_are_refused(name: str, value: float) -> None:
    """The message names the option as the command has it, the range, and what was found."""
    with pytest.raises(OptionsError, match=rf"^--{name.replace('_', '-')} goes from .* to .*, found {value}$"):
        TuneOptions(**{name: value})


@pytest.mark.parametrize(
    ("images", "epochs"),
    [(1, 8), (100, 8), (114, 8), (115, 7), (199, 5), (200, 4), (267, 3), (1_000_000, 3)],
)
def test_few_images_get_more_epochs(images: int, epochs: int) -> None:
    """Enough for 800 images to go by, but no fewer than three epochs and no more than eight."""
    assert TuneOptions().epochs_for(images) == epochs
    assert TuneOptions().epochs_for(images, patience=2) == 2 * epochs


@pytest.mark.parametrize(
    ("images", "batch"), [(1, 16), (1000, 16), (2200, 16), (2300, 32), (4500, 32), (4600, 64), (1_000_000, 64)]
)
def test_few_images_get_more_steps(images: int, batch: int) -> None:
    """A batch is a hundredth of the images, as a power of two, from 16 to 64; one that is asked for is what it is."""
    assert TuneOptions().batch_size_for(images) == batch
    assert TuneOptions(batch_size=24).batch_size_for(images) == 24


def test_epochs_that_are_asked_for_are_all() -> None:
    """Whatever the images and the recipe's patience."""
    assert [TuneOptions(epochs=3).epochs_for(*asked) for asked in ((10,), (10_000,), (10, 2))] == [3, 3, 3]
