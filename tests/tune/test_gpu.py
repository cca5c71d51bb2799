"""Tuning on a GPU gives the results of a CPU, in every precision and wherever activations are cached."""

import copy
import json
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from support.images import write_images
from support.tuning import activations_at, small_network

import unfreeze.tune.features.placement
from unfreeze.contract.errors import UnfreezeError
from unfreeze.tune.device.precision import Precision, choose_precision
from unfreeze.tune.features.activations import Cached
from unfreeze.tune.features.placement import CachePlacement, Place
from unfreeze.tune.options import PrecisionName, TuneOptions
from unfreeze.tune.run import fine_tune
from unfreeze.tune.training.optimization import Schedule
from unfreeze.tune.training.train import Epoch, Training

pytestmark = pytest.mark.gpu
GB = 1 << 30


def _options(device: str, precision: PrecisionName) -> TuneOptions:
    return TuneOptions(
        backbone="mobilenet_v3_small",
        weights="builtin",
        device=device,
        precision=precision,
        cut="features.9",
        learning_rate=5e-4,
        epochs=4,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Metrics and facts of the same training on the CPU, and in each precision on the GPU."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    data = write_images(folder / "data", 60)
    for name, device in (("cpu", "cpu"), ("fp32", "cuda"), ("bf16", "cuda"), ("fp16", "cuda")):
        precision = "fp32" if name == "cpu" else name
        metrics = fine_tune(data, folder / name, _options(device, precision))
        found[name] = metrics, json.loads((folder / name / "run.json").read_bytes())
    return found


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_every_precision_is_as_accurate_as_the_cpu(
    name: str, runs: dict[str, tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    """Validation accuracy equals that of float32 on the CPU within two standard errors; losses are similar."""
    metrics, expected = runs[name][0], runs["cpu"][0]
    assert metrics["device"].startswith("cuda")
    accuracy, count = expected["val_accuracy"], expected["images"]["val"]
    error = (accuracy * (1 - accuracy) / count) ** 0.5
    assert metrics["val_accuracy"] == pytest.approx(accuracy, abs=2 * error + 1 / count)
    losses = [epoch["loss"] for epoch in metrics["epochs"]]
    assert losses == pytest.approx([epoch["loss"] for epoch in expected["epochs"]], rel=0.1)


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_facts_and_metrics_have_the_same_fields(
    name: str, runs: dict[str, tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    """`run.json` and `metrics.json` have the fields of a run on the CPU; facts that are not measured are equal."""
    (metrics, facts), (expected, expected_facts) = runs[name], runs["cpu"]
    assert metrics.keys() == expected.keys()
    assert facts.keys() == expected_facts.keys()
    for key in ("labels", "preprocess", "val", "calibration", "link", "provenance"):
        assert facts[key] == expected_facts[key]


def _kept(source: Cached, place: Place, precision: Precision, folder: Path, patched: pytest.MonkeyPatch) -> Cached:
    """Cache activations at a place, as if there were no memory at the places before it."""
    free = {"device": (8 * GB, 0), "memory": (0, 8 * GB), "file": (0, 0)}[place]
    report = psutil.virtual_memory()._replace(available=free[1])
    patched.setattr(unfreeze.tune.features.placement, "free_device_memory", lambda _: free[0])
    patched.setattr(psutil, "virtual_memory", lambda: report)
    placement = CachePlacement(budget_bytes=8 * GB, folder=folder, device=precision.device)
    kept = placement.allocate(source.activations.shape, source.activations.dtype)
    kept.copy_(source.activations)
    return Cached(position=source.position, activations=kept, labels=source.labels, device=precision.device)


@pytest.mark.parametrize("position", [0, 5])
def test_training_does_not_depend_on_where_activations_are_cached(
    position: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches from the GPU, from memory and from a file are bitwise equal; those from elsewhere are pinned."""
    precision, made = choose_precision("cuda", "fp32"), small_network("resnet18")
    source = activations_at(made, position, 96, views=2)
    deals = [(torch.tensor([5, 90, 2]), torch.tensor([1, 0, 1]))]
    found: dict[Place, list[Epoch]] = {}
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    for place in ("device", "memory", "file"):
        with monkeypatch.context() as patched:
            kept = _kept(source, place, precision, tmp_path, patched)
        (batch,) = kept.batches(deals)
        assert (batch.is_cuda, batch.is_pinned()) == (place == "device", place != "device")
        assert torch.equal(batch.cpu(), source.activations[deals[0]])
        network = copy.deepcopy(made).to(precision.device).to(memory_format=torch.channels_last)
        training = Training(
            network=network,
            source=kept,
            schedule=Schedule(epochs=1, learning_rate=1e-3, blocks=range(position, 5), flip=True),
            options=TuneOptions(batch_size=8, mixup=0.2),
            precision=precision,
        )
        training.run()
        found[place] = training.epochs
    for place in ("memory", "file"):  # some of torch's kernels are not deterministic
        losses = [epoch.loss for epoch in found["device"]]
        assert [epoch.loss for epoch in found[place]] == pytest.approx(losses, rel=1e-2)


def test_free_memory_is_reported_by_the_driver() -> None:
    """Memory that torch has cached counts as free, memory in use does not."""
    device = torch.device("cuda")
    before = unfreeze.tune.features.placement.free_device_memory(device)
    used = torch.empty(GB // 4, dtype=torch.uint8, device=device)
    assert unfreeze.tune.features.placement.free_device_memory(device) <= before - GB // 4
    del used
    assert unfreeze.tune.features.placement.free_device_memory(device) == pytest.approx(before, abs=GB // 16)


def test_rejects_a_batch_that_does_not_fit_in_memory() -> None:
    """With little memory allowed, the error names the batch size and what to do."""
    precision, network = choose_precision("cuda", "bf16"), small_network("resnet18")
    source = activations_at(network, 0, 4096)
    training = Training(
        network=network.to(precision.device).to(memory_format=torch.channels_last),
        source=source,
        schedule=Schedule(epochs=1, learning_rate=1e-3, blocks=range(5)),
        options=TuneOptions(batch_size=4096),
        precision=precision,
    )
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + GB // 4) / total)
    try:
        with pytest.raises(UnfreezeError, match=r"batches of 4096 images .*smaller --batch-size than 4096"):
            training.run()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
