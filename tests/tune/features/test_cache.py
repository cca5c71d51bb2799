"""Activations at a cut are equal whether cached in memory, cached in a file, or streamed."""

import os
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from support.tuning import BFLOAT16, FLOAT32, extracted_at, placement_in, small_network, training_images

from unfreeze.contract.errors import UnfreezeError
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.data.images import LabeledImage
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.features.activations import ActivationSource, BatchIndices, Cached, PartlyCached, Rows, Streamed
from unfreeze.tune.features.cache import advance_cache, cache_activations, cache_bytes, pooled_features


@pytest.fixture
def network() -> Network:
    """A small network with random weights."""
    return small_network()


@pytest.fixture
def images(tmp_path: Path) -> tuple[LabeledImage, ...]:
    """Eight images of each of three colors."""
    return training_images(tmp_path)


def _cached(
    network: Network, images: tuple[LabeledImage, ...], position: int, folder: Path, precision: Precision = FLOAT32
) -> Cached:
    kept = extracted_at(network, position, images, folder, views=3, precision=precision).cached
    assert kept is not None
    return kept


def _streamed(
    network: Network, images: tuple[LabeledImage, ...], position: int, folder: Path, precision: Precision = FLOAT32
) -> Streamed:
    found = extracted_at(network, position, images, folder, views=3, precision=precision, budget_bytes=0)
    return found.streamed


def _indices(count: int) -> list[BatchIndices]:
    """Split all images in random order, a random view of each, into batches, one of them empty."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randperm(count, generator=generator)
    views = torch.randint(3, rows.shape, generator=generator)
    parts = [7, 1, 0, count - 8]
    return list(zip(rows.split(parts), views.split(parts), strict=True))


def _batches(source: ActivationSource, indices: list[BatchIndices]) -> list[torch.Tensor]:
    return list(source.batches(indices))


def _fill_memory(monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    """Report a chosen amount of free memory."""
    report = psutil.virtual_memory()._replace(available=available)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: report)


@pytest.mark.parametrize("position", [0, 1, 5])
def test_batches_are_equal_cached_and_streamed(
    position: int, network: Network, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """Every row of a batch is the requested image and view, bit for bit equal from either source."""
    cached, streamed = (make(network, images, position, tmp_path) for make in (_cached, _streamed))
    indices = _indices(24)
    kept, anew = _batches(cached, indices), _batches(streamed, indices)
    for (rows, views), one, other in zip(indices, kept, anew, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype
        expected = [cached.activations[row, view] for row, view in zip(rows, views, strict=True)]
        assert all(torch.equal(*pair) for pair in zip(one, expected, strict=True))


def test_a_subset_has_the_activations_of_its_images(
    network: Network, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """The selected images are numbered from 0, also in a subset of a subset."""
    cached, streamed = (make(network, images, 4, tmp_path) for make in (_cached, _streamed))
    taken, again = np.array([20, 3, 11, 7, 15]), np.array([4, 0])
    deal = (torch.tensor([1, 0]), torch.tensor([2, 0]))
    for source in (cached, streamed):
        some = source.take(taken)
        assert isinstance(some, Rows)
        assert (some.position, some.views) == (4, 3)
        assert some.labels.tolist() == [images[row].label for row in taken]
        assert torch.equal(next(some.batches([deal])), cached.activations[[3, 20], [2, 0]])
        fewer = some.take(again)
        assert fewer.labels.tolist() == [images[15].label, images[20].label]
        assert torch.equal(next(fewer.batches([deal])), cached.activations[[20, 15], [2, 0]])


def test_a_stream_is_cached_with_the_values_of_one_pass(
    network: Network, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """A stream within the budget is cached; with a budget for less than one image it stays a stream."""
    cached, streamed = (make(network, images, 5, tmp_path) for make in (_cached, _streamed))
    size = cached.activations.nbytes
    kept = cache_activations(streamed, placement_in(tmp_path, size))
    assert isinstance(kept, Cached)
    assert kept.position == 5
    assert torch.equal(kept.activations, cached.activations)
    assert torch.equal(kept.labels, cached.labels)
    assert cache_activations(streamed, placement_in(tmp_path, size // 24 - 1)) is streamed
    assert cache_activations(streamed, placement_in(tmp_path, size), taken_bytes=size) is streamed


@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("position", [0, 5])
def test_batches_are_equal_with_a_part_of_the_images_cached(
    position: int, precision: Precision, network: Network, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """At any budget, in order and for a subset; the cached images are spread over the classes."""
    cached = _cached(network, images, position, tmp_path, precision)
    streamed = _streamed(network, images, position, tmp_path, precision)
    per_image = cached.activations[0].nbytes
    for count in (1, 6, 23):
        placement = placement_in(tmp_path, per_image * (count + 1) - 1)
        partly = cache_activations(streamed, placement)
        assert isinstance(partly, PartlyCached)
        assert len(partly.rows) == len(partly.cached.labels) == count
        assert partly.cached.activations.nbytes <= placement.budget_bytes
        taken = np.array([23, 2, 9, 17, 5, 0, 11, 12, 20, 4])
        for one, other in ((partly, cached), (partly.take(taken), cached.take(taken))):
            indices = _indices(len(one.labels))
            pairs = zip(one.batches(indices), other.batches(indices), strict=True)
            assert all(torch.equal(*pair) for pair in pairs)
        if count >= 3:
            assert len(partly.cached.labels.unique()) == 3


def test_views_depend_on_seed_and_file_name_only(
    network: Network, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """Loading twice gives equal values in any order of the decoding threads; views differ from each other."""
    first, again = (_cached(network, images, 0, tmp_path).activations for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first[:, 1], first[:, 0])
    assert not torch.equal(first[:, 1], first[:, 2])


@pytest.mark.parametrize("position", [0, 3, 9])
def test_cache_bytes_is_the_size_of_the_cache(
    position: int, network: Network, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """The computed size is that of the allocated activations."""
    kept = cache_activations(_streamed(network, images, position, tmp_path), placement_in(tmp_path))
    assert kept.activations.nbytes == cache_bytes(network, position, 24, 3)


def test_more_than_half_of_the_free_memory_goes_to_an_unnamed_file(
    network: Network, images: tuple[LabeledImage, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With little free memory the activations are in a file without a name, which is deleted with them."""
    folder = tmp_path / "run"
    folder.mkdir()
    inside = _cached(network, images, 3, folder)
    _fill_memory(monkeypatch, 2 * inside.activations.nbytes)
    in_memory = _cached(network, images, 3, folder)
    assert f"{folder}/.activations-" not in Path("/proc/self/maps").read_text()
    _fill_memory(monkeypatch, 2 * inside.activations.nbytes - 2)
    outside = _cached(network, images, 3, folder)
    assert f"{folder}/.activations-" in Path("/proc/self/maps").read_text()
    assert torch.equal(inside.activations, outside.activations)
    assert torch.equal(inside.activations, in_memory.activations)
    assert list(folder.iterdir()) == []
    del outside
    assert f"{folder}/.activations-" not in Path("/proc/self/maps").read_text()


def test_a_full_disk_is_an_error_with_advice(
    network: Network, images: tuple[LabeledImage, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has the required size and the options that reduce it; no file is left behind."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)  # the disk, which is not ours to fill
    _fill_memory(monkeypatch, 1000)
    folder = tmp_path / "run"
    folder.mkdir()
    expected = r"need 0\.0 GB, more than the free memory, and cannot be written to .*run .*No space left on device.*"
    with pytest.raises(UnfreezeError, match=expected + r"smaller --cache-gb, fewer --views or a later --cut"):
        _cached(network, images, 3, folder)
    assert list(folder.iterdir()) == []


def test_advancing_a_cache_gives_the_activations_at_the_later_cut(
    network: Network, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """The blocks in between, run on cached activations, give what one pass gives."""
    early, late = (_cached(network, images, position, tmp_path) for position in (4, 8))
    advanced = advance_cache(network, early, 8, FLOAT32, placement_in(tmp_path))
    torch.testing.assert_close(advanced.activations.float(), late.activations.float(), atol=2e-2, rtol=2e-2)
    assert advanced.position == 8
    assert torch.equal(advanced.labels, late.labels)
    assert advance_cache(network, late, 8, FLOAT32, placement_in(tmp_path)) is late


def test_caching_does_not_change_the_network(images: tuple[LabeledImage, ...], tmp_path: Path) -> None:
    """Neither weights nor batch statistics change."""
    network = small_network("mobilenet_v2")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = extracted_at(network, 5, images, tmp_path, survey=True)
    pooled_features(network, found.cached, FLOAT32)
    _batches(found.streamed, [(torch.arange(3), torch.zeros(3, dtype=torch.int64))])
    assert not network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
def test_pooled_features_are_the_same_from_every_cut(
    precision: Precision, network: Network, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """At any cut and in any precision, the features after the last block agree within rounding."""
    some = images[::2]
    expected = extracted_at(network, 9, some, tmp_path, views=3).features
    for position in (0, 2, 7):
        found = pooled_features(network, _cached(network, some, position, tmp_path), precision)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 0.03 * expected.abs().max()
        first = pooled_features(network, _cached(network, some, position, tmp_path), precision, views=1)
        assert first.shape[1] == 1
        assert (first[:, 0] - expected[:, 0]).abs().max() < 0.03 * expected.abs().max()


def test_pooled_features_are_equal_cached_and_streamed(images: tuple[LabeledImage, ...], tmp_path: Path) -> None:
    """For all images or a subset, bit for bit."""
    network = small_network("resnet18")  # maps of one pixel, as squeezenet's are here, round otherwise by their strides
    cached, streamed = (make(network, images, 3, tmp_path) for make in (_cached, _streamed))
    whole = pooled_features(network, cached, FLOAT32)
    assert torch.equal(whole, pooled_features(network, streamed, FLOAT32))
    taken = np.array([17, 2, 9, 21, 5])
    some = [pooled_features(network, source.take(taken), FLOAT32) for source in (cached, streamed)]
    assert torch.equal(some[0], some[1])
    torch.testing.assert_close(some[0], whole[taken])
