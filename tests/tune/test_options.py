"""Options: which recipes and cuts they combine, which values they reject, and how long they train."""

import math

import pytest

from unfreeze.contract.errors import OptionsError
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.recipes.registry import linear_recipes

LINEAR = tuple(recipe.name for recipe in linear_recipes())


@pytest.mark.parametrize(
    ("recipe", "cut"),
    [
        *((linear, cut) for linear in LINEAR for cut in ("all", "layer4")),
        *((whole, cut) for whole in ("all", "scratch") for cut in ("head", "layer4")),
        *(("stem-head", cut) for cut in ("head", "all", "conv1", "layer4")),
        ("last-blocks", "head"),
        ("lora", "head"),
    ],
)
def test_rejects_a_cut_that_does_not_suit_the_recipe(recipe: str, cut: str) -> None:
    """The message names both options and what to do."""
    expected = (
        rf"^--cut {cut} cannot be combined with --recipe {recipe}; leave out one of them, or use --recipe last-blocks"
    )
    with pytest.raises(OptionsError, match=expected):
        TuneOptions(recipe=recipe, cut=cut)


@pytest.mark.parametrize(
    ("recipe", "cut", "requested"),
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
        ("lora", "auto", "lora"),
        ("lora", "layer4", "lora"),
        ("last-blocks", "layer4", "last-blocks"),
        ("last-blocks", "all", "last-blocks"),
        ("last-blocks", "auto", "last-blocks"),
    ],
)
def test_a_cut_may_imply_the_recipe(recipe: str, cut: str, requested: str) -> None:
    """A cut implies a recipe only if none is given."""
    assert TuneOptions(recipe=recipe, cut=cut).requested_recipe == requested


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("patience", -1),
        ("views", 0),
        ("batch_size", 1),
        ("image_size", 31),
        ("crop_pct", 1.5),
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
def test_rejects_values_out_of_range(name: str, value: float) -> None:
    """The message names the option as on the command line, the range, and the value."""
    with pytest.raises(OptionsError, match=rf"^--{name.replace('_', '-')} must be between .* and .*, got {value}$"):
        TuneOptions(**{name: value})


@pytest.mark.parametrize(
    ("images", "epochs"),
    [(1, 8), (100, 8), (114, 8), (115, 7), (199, 5), (200, 4), (267, 3), (1_000_000, 3)],
)
def test_few_images_are_trained_on_for_more_epochs(images: int, epochs: int) -> None:
    """Enough epochs to see 800 images, but at least three and at most eight."""
    assert TuneOptions().epochs_for(images) == epochs
    assert TuneOptions().epochs_for(images, factor=2) == 2 * epochs


@pytest.mark.parametrize(
    ("images", "batch"), [(1, 16), (1000, 16), (2200, 16), (2300, 32), (4500, 32), (4600, 64), (1_000_000, 64)]
)
def test_few_images_are_trained_on_in_smaller_batches(images: int, batch: int) -> None:
    """By default, a batch is a hundredth of the images, rounded to a power of two from 16 to 64."""
    assert TuneOptions().batch_size_for(images) == batch
    assert TuneOptions(batch_size=24).batch_size_for(images) == 24


@pytest.mark.parametrize(
    ("counts", "options", "metric"),
    [
        ([100, 10], {}, "accuracy"),
        ([101, 10], {}, "balanced"),
        ([100, 0, 10], {}, "accuracy"),
        ([5, 5], {"class_weights": "balanced"}, "balanced"),
        ([5, 5], {"class_weights": "balanced", "metric": "accuracy"}, "accuracy"),
        ([5, 5], {"metric": "balanced"}, "balanced"),
        ([500, 5], {"metric": "accuracy"}, "accuracy"),
    ],
)
def test_auto_balances_classes_that_differ_more_than_ten_times(
    counts: list[int], options: dict[str, object], metric: str
) -> None:
    """Or whose images are weighted; classes without training images do not count, and a named metric is used."""
    assert TuneOptions(**options).metric_for(counts) == metric


def test_given_epochs_are_not_changed() -> None:
    """Neither the number of images nor the factor of a recipe changes them."""
    assert [TuneOptions(epochs=3).epochs_for(*arguments) for arguments in ((10,), (10_000,), (10, 2))] == [3, 3, 3]


def test_rejects_an_unknown_recipe() -> None:
    """The message lists the registered recipes."""
    expected = (
        "^--recipe must be one of auto, probe, one-vs-rest, svm, last-blocks, lora, stem-head, all, scratch, "
        "got 'magic'$"
    )
    with pytest.raises(OptionsError, match=expected):
        TuneOptions(recipe="magic")
