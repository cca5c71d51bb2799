"""Pretraining of the built-in weights: the drawn images, resuming, and the shipped file."""

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torchvision.models import mobilenet_v3_small

import unfreeze.tune
from bench.pretrain.augment import augment
from bench.pretrain.catalog import CLASSES, FAMILIES, SIDE_PX, draw_image, draw_labels
from bench.pretrain.isometries import FRIEZES, frieze, rosette
from bench.pretrain.pool import PoolPlan
from bench.pretrain.train import Recipe, train
from unfreeze.contract.images.preprocess import PreprocessSpec

if TYPE_CHECKING:
    from collections.abc import Callable

ONE_OF_EACH = [next(at for at, (family, _) in enumerate(CLASSES) if family == wanted) for wanted in FAMILIES]
BUILTIN = Path(next(iter(unfreeze.tune.__path__))) / "builtin" / "mobilenet_v3_small.safetensors"


class KilledError(Exception):
    """Simulates a kill between two steps."""


@pytest.mark.parametrize("label", ONE_OF_EACH)
def test_drawing_is_reproducible(label: int) -> None:
    """The same class and seed give the same image, another seed another image."""
    first, again, other = (draw_image(label, seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_class_draws_an_image() -> None:
    """Every class (every tenth fractal) gives an RGB image, HWC, uint8, that is not of one color."""
    fractals = [label for label, (family, _) in enumerate(CLASSES) if family == "fractal"]
    for label in sorted(set(range(len(CLASSES))) - set(fractals)) + fractals[::10]:
        image = draw_image(label, 0)
        assert image.shape == (SIDE_PX, SIDE_PX, 3)
        assert image.dtype == np.uint8
        assert image.std() > 1, CLASSES[label]


def test_classes_differ_in_the_image() -> None:
    """With the same seed, no two classes of a family give the same image."""
    for family in FAMILIES:
        labels = [label for label, (name, _) in enumerate(CLASSES) if name == family][:16]
        images = [draw_image(label, 5) for label in labels]
        assert not any(np.array_equal(one, two) for one, two in itertools.combinations(images, 2))


def test_labels_are_reproducible_and_cover_all_families() -> None:
    """The classes of a shard depend on the seed, and every family is among them."""
    labels = draw_labels(0, 1, 512)
    assert np.array_equal(labels, draw_labels(0, 1, 512))
    assert {CLASSES[label][0] for label in labels} == set(FAMILIES)


@pytest.mark.parametrize("reflected", [False, True])
@pytest.mark.parametrize("order", range(1, 9))
def test_rosettes_are_groups(order: int, reflected: bool) -> None:  # noqa: FBT001
    """The product of any two elements of the group of a rosette is an element."""
    group = rosette(order, reflected=reflected)
    assert len(group) == order * (1 + reflected)
    products = (group[:, None] @ group).reshape(-1, 1, 3, 3)
    assert np.abs(products - group).max((2, 3)).min(1).max() < 1e-9


@pytest.mark.parametrize("name", FRIEZES)
def test_friezes_are_groups(name: str) -> None:
    """The product of any two elements of one period is an element of the frieze group."""
    cell, strip = frieze(name, 2.0, 0), frieze(name, 2.0, 3)
    products = (cell[:, None] @ cell).reshape(-1, 1, 3, 3)
    assert np.abs(products - strip).max((2, 3)).min(1).max() < 1e-9


def test_augmentation_is_reproducible() -> None:
    """The same seed gives the same crops, of the requested size."""
    batch = np.stack([draw_image(label, 1) for label in ONE_OF_EACH])
    first, again, other = (augment(batch, 48, seed) for seed in (1, 1, 2))
    assert first.shape == (len(batch), 3, 48, 48)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def _recipe(folder: Path) -> Recipe:
    plan = PoolPlan(folder=folder / "pool", seed=7, images_per_shard=4, first=1, window=1, steps_per_shard=2)
    return Recipe(
        pool=plan,
        work=folder,
        out=folder / "out.safetensors",
        steps=4,
        batch=2,
        sizes_px=((0.0, 32), (0.5, 48)),
        steps_per_checkpoint=2,
        held_out=2,
    )


def _kill_after(last: int) -> "Callable[[int, float, float, str], None]":
    def report(step: int, *_: object) -> None:
        if step == last:
            raise KilledError

    return report


def test_resumed_run_ends_in_the_same_weights(tmp_path: Path) -> None:
    """A run that is killed between two checkpoints and resumed gives bit-identical weights to an uninterrupted run."""
    whole, broken = (_recipe(tmp_path / name) for name in ("whole", "broken"))
    for recipe in (whole, broken):
        recipe.work.mkdir()
    train(whole, _kill_after(-1))
    with pytest.raises(KilledError):
        train(broken, _kill_after(3))
    train(broken, _kill_after(-1))
    first, second = (torch.load(recipe.work / "run.pt", weights_only=True) for recipe in (whole, broken))
    assert first["step"] == second["step"] == 4
    for weights in ("network", "average"):
        assert all(torch.equal(value, second[weights][name]) for name, value in first[weights].items())


def test_builtin_weights_fit_torchvision() -> None:
    """The shipped file has at most 3 MB of half-precision weights, exactly those of torchvision's features."""
    assert BUILTIN.stat().st_size <= 3_000_000
    with safe_open(BUILTIN, "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert all(value.dtype == torch.float16 for value in state.values() if value.is_floating_point())
    assert all(name.startswith("features.") for name in state)
    features = mobilenet_v3_small(weights=None).features
    features.load_state_dict({name.removeprefix("features."): value for name, value in state.items()}, strict=True)


def test_builtin_weights_describe_themselves() -> None:
    """The metadata of the shipped file gives the backbone, the license and a valid preprocessing."""
    with safe_open(BUILTIN, "pt") as file:
        about = file.metadata()
    assert about["backbone"] == "mobilenet_v3_small"
    assert about["license"] == "Apache-2.0"
    assert about["made_by"] == "python -m bench.pretrain"
    spec = {name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(about["preprocess"]).items()}
    assert PreprocessSpec(**spec).shape[2] == 3
