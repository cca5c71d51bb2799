"""Estimated cost of every cut: counted where possible, and otherwise measured."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from support.cli import run_cli
from support.images import write_images

from unfreeze.contract.errors import DataError, WeightsError
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.backbones.weights import load_pretrained
from unfreeze.tune.cost.estimate import Costs, CutPlan, Task, estimate_cut
from unfreeze.tune.cost.measure import BlockCost, measure_blocks
from unfreeze.tune.cost.plan import plan
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.options import TuneOptions

pytestmark = pytest.mark.xdist_group("plan")

OPTIONS = TuneOptions(backbone="squeezenet1_1", weights="none", device="cpu", views=3)


@pytest.fixture(scope="module")
def plans() -> tuple[CutPlan, ...]:
    """Plans for SqueezeNet 1.1, 10 classes and 1,000 images."""
    return plan(OPTIONS, classes=10, images=1000)


def test_parameters_and_arithmetic_equal_torchvisions(plans: tuple[CutPlan, ...]) -> None:
    """Torchvision states 1,235,496 parameters, 513,000 of them in the classifier, and 0.349 GMACs."""
    blocks = 1_235_496 - 513_000
    assert {one.parameters for one in plans} == {blocks + 512 * 10 + 10}
    assert {one.stock_parameters for one in plans} == {1_235_496}
    assert plans[0].trained_parameters == 512 * 10 + 10
    assert plans[-1].trained_parameters == blocks + 512 * 10 + 10
    totals = {one.frozen_flops + one.trained_flops for one in plans}
    assert len(totals) == 1
    classifier_macs = 512 * 1000 * 13 * 13
    assert totals.pop() == pytest.approx(2 * (0.349e9 - classifier_macs), rel=0.01)


def test_earlier_cuts_train_more_and_freeze_less(plans: tuple[CutPlan, ...]) -> None:
    """From "head" to "all", trained parameters grow and frozen arithmetic shrinks; no cut is slower than naive."""
    assert [one.cut for one in plans] == ["head", *[f"features.{i}" for i in (12, 11, 10, 9, 7, 6, 4, 3)], "all"]
    for before, after in pairwise(plans):
        assert before.trained_parameters < after.trained_parameters
        assert before.frozen_flops > after.frozen_flops
    assert all(one.seconds <= one.naive_seconds for one in plans)


def test_duration_is_the_sum_over_all_stages() -> None:
    """By hand: images are loaded and run through all blocks once, and through the trained ones in three epochs."""
    blocks = tuple(
        BlockCost(
            name=name,
            parameters=1000,
            forward_flops=10,
            activation_bytes=100,
            saved_bytes=500,
            forward_seconds=forward,
            training_seconds=4 * forward,
        )
        for name, forward in (("a", 1.0), ("b", 0.5), ("c", 0.25))
    )
    costs = Costs(blocks=blocks, stock_parameters=9, image_bytes=300, evaluation_seconds=3.0)
    task = Task(classes=2, images=1000, val_images=100, load_seconds=0.2)
    options = TuneOptions(views=2, batch_size=10)
    found = {cut: estimate_cut(cut, costs, position, 7, task, options) for cut, position in (("head", 3), ("b", 1))}
    once = 1000 * 0.2 + 2000 * 1.75 + 100 * (0.1 + 3.0)
    assert found["head"].seconds == pytest.approx(once)
    assert found["b"].seconds == pytest.approx(once + 3 * 1000 * 3.0)
    assert found["b"].naive_seconds == pytest.approx(once + 3 * 1000 * (0.1 + 1.0 + 3.0))
    assert found["b"].trained_parameters == 2007
    assert found["b"].cache_bytes == 2000 * 100
    assert found["b"].memory_bytes == 3007 * 4 + 2007 * 3 * 4 + 10 * 1000 + 2000 * 100


def test_cache_size_is_that_of_the_activations_at_the_cut(plans: tuple[CutPlan, ...]) -> None:
    """The cache holds bfloat16 activations of every view, or uint8 images before the first block."""
    by_cut = {one.cut: one for one in plans}
    assert by_cut["head"].cache_bytes == 1000 * 3 * 512 * 13 * 13 * 2
    assert by_cut["features.9"].cache_bytes == 1000 * 3 * 384 * 13 * 13 * 2 * 256 // 384
    assert by_cut["all"].cache_bytes == 1000 * 3 * 224 * 224 * 3


def test_measuring_does_not_change_weights() -> None:
    """The backward pass is timed without a step, and the memory it keeps is counted."""
    torch.manual_seed(0)
    pretrained = load_pretrained("resnet18", "none")
    network = Network("resnet18", load_pretrained("resnet18", "none").model, pretrained.spec, 3).eval()
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    precision = Precision(device=torch.device("cpu"), dtype=torch.float32)
    costs = measure_blocks(network, precision, 2)
    assert [cost.name for cost in costs] == ["conv1", "layer1", "layer2", "layer3", "layer4"]
    assert all(torch.equal(before[name], parameter) for name, parameter in network.named_parameters())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.training
    for cost in costs:
        assert cost.saved_bytes > cost.activation_bytes
        assert cost.forward_seconds > 0
        assert cost.training_seconds > 0
    assert [cost.activation_bytes for cost in costs] == [2 * 64 * 56 * 56 >> shift for shift in (0, 0, 1, 2, 3)]
    # 1.814 GMACs are torchvision's figure with the classifier of 512,000
    assert sum(cost.forward_flops for cost in costs) == pytest.approx(2 * (1.814e9 - 512_000), rel=0.01)


def test_plans_for_a_dataset(tmp_path: Path) -> None:
    """The counts are those of the dataset, which may contain files that cannot be decoded; the command prints them."""
    data = write_images(tmp_path / "data", 10)
    (data / "red" / "000.jpg").write_bytes(b"no image")
    command = ("plan", data, "--backbone", "squeezenet1_1", "--views", "2", "--batch-size", "2")
    head = json.loads(run_cli(*command, "--json").stdout)[0]
    assert head["trained_parameters"] == 512 * 3 + 3
    assert head["cache_bytes"] == 24 * 2 * 512 * 13 * 13 * 2
    assert math.isfinite(head["seconds"])
    table = run_cli(*command).stdout
    assert all(
        name in table for name in ("head", "features.12", "all", "naive", "seconds", "8 epochs, 2 views per image")
    )


def test_rejects_unknown_backbones_and_datasets(tmp_path: Path) -> None:
    """The errors are those of tuning."""
    with pytest.raises(WeightsError):
        plan(TuneOptions(backbone="yolo"))
    with pytest.raises(DataError):
        plan(OPTIONS, data=tmp_path / "nowhere")
