"""Datasets with few images per class: every recipe ends in a run or in one of our errors, never in a traceback."""

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.images import draw_image, encode
from support.runs import SPEC
from support.tuning import FLOAT32, placement_in

from unfreeze.contract.errors import UnfreezeError
from unfreeze.contract.reporting import Silent
from unfreeze.tune.artifacts.checkpoint import load_run
from unfreeze.tune.artifacts.resume import ResumeState
from unfreeze.tune.backbones.weights import load_pretrained
from unfreeze.tune.data.dataset import read_dataset
from unfreeze.tune.data.inspection.inspection import inspect_dataset
from unfreeze.tune.device.distributed import SINGLE_WORKER
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.pipeline.context import RunContext
from unfreeze.tune.recipes.registry import AUTO, recipe_names
from unfreeze.tune.run import _save, _tune, evaluate_run
from unfreeze.tune.selection.choose import FOLDS

Counts = tuple[int, ...]
MOST, CLASSES = 6, 4
RECIPES = (AUTO, *(name for name in recipe_names() if name != "lora"))  # which needs an attention
# One class, a class of one image, classes below the four images of the flip test and below the three folds, ...
TYPICAL: tuple[Counts, ...] = ((4, 1), (1, 1), (3, 0), (2, 2), (6, 3, 0), (6, 4, 1), (5, 4, 3, 2))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training images and one validation image of each of four classes."""
    folder = tmp_path_factory.mktemp("images")
    for label, number in itertools.product(range(CLASSES), range(MOST + 1)):
        color = (60 * label, 255 - 60 * label, 120)
        (folder / f"{label}-{number}.png").write_bytes(encode(draw_image(color, 10 * label + number, (40, 40)), "PNG"))
    return folder


def _list(images: Path, counts: Counts, *, with_val: bool) -> Path:
    """Write a CSV file with some training images of each class, and one validation image if there is a val split."""
    rows = ["path,label,split" if with_val else "path,label"]
    for label, count in enumerate(counts):
        rows += [f"{label}-{number}.png,class {label}{',train' * with_val}" for number in range(count)]
        rows += [f"{label}-{MOST}.png,class {label},val"] * (with_val and count > 0)
    listed = images / f"{'-'.join(map(str, counts))}-{with_val}.csv"
    listed.write_text("\n".join(rows))
    return listed


def _fine_tune(listed: Path, out: Path, options: TuneOptions) -> None:
    """Do what `fine_tune` does, with images of 32 by 32 pixels."""
    torch.manual_seed(0)
    dataset = read_dataset(listed)
    pretrained = replace(load_pretrained(options.backbone, options.weights), spec=SPEC)
    inspection = inspect_dataset(dataset, FOLDS, Silent())
    out.mkdir()
    context = RunContext(
        options=options,
        reporter=Silent(),
        dataset=dataset,
        inspection=inspection,
        pretrained=pretrained,
        precision=FLOAT32,
        network=pretrained.network(options.backbone, len(dataset.labels), FLOAT32.device),
        placement=placement_in(out),
        resume_state=ResumeState(out),
        workers=SINGLE_WORKER,
    )
    context.resume_state.begin(options, inspection.contents, "")
    tuned = _tune(context)
    result = evaluate_run(context, tuned.chosen.choice, tuned.network, tuned.probed, tuned.training)
    _save(context, out, result, tuned, 0.0)


def _check(images: Path, out: Path, counts: Counts, recipe: str, *, views: int = 1, with_val: bool = False) -> None:
    """Tune; expect a run that can be loaded, or one of our errors if the images cannot be used."""
    options = TuneOptions(backbone="squeezenet1_1", weights="none", recipe=recipe, views=views, epochs=1, patience=1)
    usable = sum(count > 0 for count in counts) > 1 and (with_val or min(filter(None, counts)) > 1)
    try:
        _fine_tune(_list(images, counts, with_val=with_val), out, options)
    except UnfreezeError:
        assert not usable, f"{counts} can be used"
        return
    assert usable
    assert load_run(out)[1].labels == tuple(f"class {label}" for label, count in enumerate(counts) if count)
    assert json.loads((out / "metrics.json").read_text())["images"]["train"] > 0


@pytest.mark.parametrize("counts", TYPICAL, ids=str)
@pytest.mark.parametrize("recipe", ["auto", "all"])
def test_few_images_give_a_run_or_our_error(recipe: str, counts: Counts, images: Path, tmp_path: Path) -> None:
    """Typical counts with a val split, for the recipes that use every filter: `auto` and `all` test flips."""
    _check(images, tmp_path / "run", counts, recipe, views=2 if recipe == AUTO else 1, with_val=True)


@pytest.mark.parametrize("counts", [(4, 1), (5, 0), (4, 3, 2)], ids=str)
@pytest.mark.parametrize("recipe", ["svm", "last-blocks", "scratch"])
def test_few_images_without_a_val_split(recipe: str, counts: Counts, images: Path, tmp_path: Path) -> None:
    """Without a val split, validation images are taken from the few."""
    _check(images, tmp_path / "run", counts, recipe)


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("recipe", RECIPES)
def test_any_counts_give_a_run_or_our_error(recipe: str, images: Path, tmp_path: Path) -> None:
    """All counts of two classes, and a random sample for three and four, with and without views and a val split."""
    rng = random.Random(recipe)  # noqa: S311 - a sample
    pairs = list(itertools.combinations_with_replacement(range(MOST + 1), 2))
    larger = [tuple(rng.choices(range(MOST + 1), k=classes)) for classes in (3, 4) for _ in range(15)]
    for number, counts in enumerate([*pairs, *larger]):
        views, with_val = rng.choice((1, 2)), rng.random() < 0.5
        _check(images, tmp_path / str(number), counts, recipe, views=views, with_val=with_val)
