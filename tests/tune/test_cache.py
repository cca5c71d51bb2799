"""The frozen trunk runs once, and what is kept of it is what it gave."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from support.pictures import write_pictures
from support.runs import SPEC

from contract.errors import UnfreezeError
from contract.preprocess import prepare
from tune.cache import Cached, Room, advance_cache, fill_cache, pooled_features
from tune.dataset import Picture, read_dataset
from tune.network import Network
from tune.precision import Precision
from tune.views import Views

FLOAT32 = Precision(device=torch.device("cpu"), dtype=torch.float32)
BFLOAT16 = Precision(device=torch.device("cpu"), dtype=torch.bfloat16)


@pytest.fixture
def network() -> Network:
    """A small network with random weights."""
    torch.manual_seed(0)
    return Network("squeezenet1_1", torchvision.models.squeezenet1_1(), SPEC, 3).eval()


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Picture, ...]:
    """Forty pictures of three classes, and one that is none."""
    data = write_pictures(tmp_path / "data", 14)
    (data / "green" / "005.jpg").write_bytes(b"no picture")
    return read_dataset(data, val_fraction=0.05).splits["train"]


def _fill(
    network: Network, pictures: tuple[Picture, ...], position: int, folder: Path, *, memory_bytes: int = 1 << 30
) -> Cached:
    room = Room(memory_bytes=memory_bytes, folder=folder)
    return fill_cache(network, position, pictures, Views(spec=SPEC, count=3, seed=1), FLOAT32, room)


@pytest.mark.parametrize("position", [0, 1, 5, 10])
def test_the_first_view_is_the_picture_as_served(
    position: int, network: Network, pictures: tuple[Picture, ...], tmp_path: Path
) -> None:
    """At every cut, the cache holds what the blocks before it give for each picture, to bfloat16's precision."""
    cached = _fill(network, pictures, position, tmp_path)
    assert [item.path.name for item in cached.skipped] == ["005.jpg"]
    assert len(cached.pictures) == len(pictures) - 1 == len(cached.activations) == len(cached.labels)
    assert cached.labels.tolist() == [picture.label for picture in cached.pictures]
    prepared = np.stack([prepare(picture.path.read_bytes(), SPEC) for picture in cached.pictures])
    with torch.inference_mode():
        expected = network.run_blocks(torch.from_numpy(prepared), 0, position) if position else torch.tensor(prepared)
    assert cached.activations.dtype == (torch.bfloat16 if position else torch.uint8)
    torch.testing.assert_close(cached.activations[:, 0].float(), expected.float(), atol=1e-2, rtol=1e-2)
    assert not torch.equal(cached.activations[:, 0], cached.activations[:, 1])


def test_views_are_the_same_for_the_same_seed_and_name(
    network: Network, pictures: tuple[Picture, ...], tmp_path: Path
) -> None:
    """Filling twice gives the same bits, whatever the order in which decoding threads end."""
    first, again = (_fill(network, pictures, 0, tmp_path).activations for _ in range(2))
    assert torch.equal(first, again)


def test_a_cache_over_its_budget_goes_to_an_unnamed_file(
    network: Network, pictures: tuple[Picture, ...], tmp_path: Path
) -> None:
    """Above the memory allowed the same activations lie in a file, which no one sees and which is gone afterwards."""
    folder = tmp_path / "run"
    folder.mkdir()
    inside, outside = (_fill(network, pictures, 3, folder, memory_bytes=size) for size in (1 << 30, 1000))
    assert torch.equal(inside.activations, outside.activations)
    assert list(folder.iterdir()) == []
    maps = Path("/proc/self/maps").read_text()
    assert f"{folder}/.activations-" in maps
    del outside
    assert f"{folder}/.activations-" not in Path("/proc/self/maps").read_text()


def test_no_room_anywhere_is_an_error_that_says_what_to_do(
    network: Network, pictures: tuple[Picture, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk ends with the size that was wanted and the options that lower it, and leaves no file."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)  # the disk, which is not ours to fill
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(UnfreezeError, match=r"more than --cache-gb allows.*No space left on device.*fewer --views"):
        _fill(network, pictures, 3, folder, memory_bytes=1000)
    assert list(folder.iterdir()) == []


def test_a_cache_taken_on_is_the_cache_at_the_later_cut(
    network: Network, pictures: tuple[Picture, ...], tmp_path: Path
) -> None:
    """Running the blocks in between on cached activations gives what filling there gives."""
    early, late = (_fill(network, pictures, position, tmp_path) for position in (4, 9))
    taken_on = advance_cache(network, early, 9, FLOAT32)
    torch.testing.assert_close(taken_on.activations.float(), late.activations.float(), atol=2e-2, rtol=2e-2)
    assert taken_on.position == 9
    assert advance_cache(network, late, 9, FLOAT32) is late


def test_caching_leaves_the_network_as_it_was(pictures: tuple[Picture, ...], tmp_path: Path) -> None:
    """Batch statistics of a network in eval mode do not move, nor does any weight."""
    torch.manual_seed(0)
    network = Network("mobilenet_v2", torchvision.models.mobilenet_v2(), SPEC, 3).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    pooled_features(network, _fill(network, pictures, 5, tmp_path), FLOAT32)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
def test_pooled_features_are_the_same_from_every_cut(
    precision: Precision, network: Network, pictures: tuple[Picture, ...], tmp_path: Path
) -> None:
    """Whatever the cut and the precision, the features behind the last block agree within rounding."""
    expected = pooled_features(network, _fill(network, pictures, 0, tmp_path), FLOAT32)
    for position in (2, 7, 10):
        found = pooled_features(network, _fill(network, pictures, position, tmp_path), precision)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 0.03 * expected.abs().max()
    assert pooled_features(network, _fill(network, pictures, 7, tmp_path), FLOAT32, views=1).shape[1] == 1
