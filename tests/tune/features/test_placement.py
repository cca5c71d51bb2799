"""Where activations are stored; the result of a training does not depend on it."""

import copy
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from support.tuning import FLOAT32, activations_at, small_network

import unfreeze.tune.features.placement
from unfreeze.tune.device.precision import CPU
from unfreeze.tune.device.staging import stack_images
from unfreeze.tune.features.activations import Cached
from unfreeze.tune.features.placement import CachePlacement, Place, place_for
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.training.optimization import Schedule
from unfreeze.tune.training.train import Training

GB = 1 << 30
OTHER = torch.device("cuda")  # without a GPU, the code paths are those for one, but nothing is pinned or copied


@pytest.mark.parametrize(
    ("size", "device_free", "memory_free", "place"),
    [
        (4 * GB, 9 * GB, 100 * GB, "device"),
        (4 * GB, 9 * GB - 1, 100 * GB, "memory"),  # half of what is free, less a margin
        (4 * GB, 9 * GB - 1, 8 * GB - 1, "file"),
        (4 * GB, 9 * GB, 0, "device"),
        (4 * GB, 0, 8 * GB, "memory"),  # a CPU
        (4 * GB, 0, 8 * GB - 1, "file"),
        (1, GB, 100 * GB, "memory"),  # next to nothing, on a GPU that others fill
        (0, 0, 0, "memory"),
    ],
)
def test_activations_are_placed_where_half_of_the_free_memory_remains(
    size: int, device_free: int, memory_free: int, place: Place
) -> None:
    """On the computing device, else in main memory, else in a file."""
    assert place_for(size, device_free=device_free, memory_free=memory_free) == place


def test_caches_are_allocated_in_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device with enough free memory, else in main memory."""
    monkeypatch.setattr(
        unfreeze.tune.features.placement, "free_device_memory", lambda device: 0 if device == CPU else 2 * GB
    )
    placement = CachePlacement(
        budget_bytes=GB, folder=tmp_path, device=torch.device("meta")
    )  # a device without memory of its own
    taken = placement.allocate((3, 2, 5), torch.bfloat16)
    assert (taken.device.type, taken.shape, taken.dtype) == ("meta", (3, 2, 5), torch.bfloat16)
    assert placement.allocate((GB // 4 + 1,), torch.bfloat16).device == CPU
    assert CachePlacement(budget_bytes=GB, folder=tmp_path).allocate((3,), torch.uint8).device == CPU


def test_a_cpu_has_no_device_memory() -> None:
    """CUDA is not queried for a CPU."""
    assert unfreeze.tune.features.placement.free_device_memory(CPU) == 0


def _placed(source: Cached, folder: Path, monkeypatch: pytest.MonkeyPatch, memory_free: int) -> Cached:
    """Copy activations to the place chosen for them, for another device to compute on."""
    report = psutil.virtual_memory()._replace(available=memory_free)
    with monkeypatch.context() as patched:
        patched.setattr(psutil, "virtual_memory", lambda: report)
        kept = CachePlacement(budget_bytes=GB, folder=folder).allocate(
            source.activations.shape, source.activations.dtype
        )
    kept.copy_(source.activations)
    return Cached(position=source.position, activations=kept, labels=source.labels, device=OTHER)


@pytest.mark.parametrize("position", [0, 4])
def test_batches_for_another_device_are_equal(position: int) -> None:
    """Collected in advance, in order, for batches of any size, including empty ones; of all images or a subset."""
    network = small_network("resnet18")
    source = activations_at(network, position, 60, views=3)
    away = Cached(position=position, activations=source.activations, labels=source.labels, device=OTHER)
    generator = torch.Generator().manual_seed(1)
    rows, views = torch.randperm(60, generator=generator), torch.randint(3, (60,), generator=generator)
    parts = [7, 1, 0, 9, 3, 20, 20]
    indices = list(zip(rows.split(parts), views.split(parts), strict=True))
    expected = [source.activations[row, view] for row, view in indices]
    found = list(away.batches(iter(indices)))
    assert [len(batch) for batch in found] == parts
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    one = (torch.tensor([1, 0]), torch.tensor([2, 1]))
    some = away.take(np.array([20, 3, 11]))
    assert torch.equal(next(some.batches([one])), source.activations[[3, 20], [2, 1]])


def test_training_does_not_depend_on_the_place_of_activations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device, in main memory or in a file: equal losses and weights, bit for bit."""
    network = small_network()
    source = activations_at(network, 8, views=2)
    size = source.activations.nbytes
    sources = [source, *(_placed(source, tmp_path, monkeypatch, free) for free in (2 * size, 2 * size - 1))]
    assert f"{tmp_path}/.activations-" in Path("/proc/self/maps").read_text()
    found = []
    for one in sources:
        trained = copy.deepcopy(network)
        training = Training(
            network=trained,
            source=one,
            schedule=Schedule(epochs=2, learning_rate=1e-3, blocks=[8]),
            options=TuneOptions(batch_size=8),
            precision=FLOAT32,
        )
        training.run()
        found.append((training.epochs, trained.state_dict()))
    for epochs, state in found[1:]:
        assert epochs == found[0][0]
        assert all(torch.equal(value, state[key]) for key, value in found[0][1].items())
    assert not torch.equal(found[0][1]["head.linear.weight"], network.state_dict()["head.linear.weight"])


@pytest.mark.parametrize("device", [CPU, OTHER], ids=["cpu", "cuda"])
def test_images_are_stacked_for_any_device(device: torch.device) -> None:
    """As NumPy stacks them, in main memory; pinned for a GPU."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (2, 4, 5, 3), dtype=np.uint8) for _ in range(3)]
    batch = stack_images(images, device)
    assert batch.device == CPU
    assert np.array_equal(batch.numpy(), np.stack(images))
    assert batch.is_pinned() == (device == OTHER and torch.cuda.is_available())
