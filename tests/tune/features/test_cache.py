"""Activations at a cut: the same, be they kept in memory, kept in a file, or computed anew."""

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
from unfreeze.tune.features.cache import (
    Cached,
    Deal,
    Rows,
    Source,
    Streamed,
    advance_cache,
    cache_bytes,
    keep,
    pooled_features,
)


@pytest.fixture
def network() -> Network:
    """A small network with random weights."""
    return small_network()


@pytest.fixture
def images(tmp_path: Path) -> tuple[LabeledImage, ...]:
    """Eight images of each of three colors."""
    return training_images(tmp_path)


def _cached(network: Network, images: tuple[LabeledImage, ...], position: int, folder: Path) -> Cached:
    kept = extracted_at(network, position, images, folder, views=3).kept
    assert kept is not None
    return kept


def _streamed(
    network: Network, images: tuple[LabeledImage, ...], position: int, folder: Path, precision: Precision = FLOAT32
) -> Streamed:
    found = extracted_at(network, position, images, folder, views=3, precision=precision, budget_bytes=0)
    return found.streamed


def _deals(count: int) -> list[Deal]:
    """Deal out all images in a random order, a random view of each; some deals are empty, some of one image."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randperm(count, generator=generator)
    views = torch.randint(3, rows.shape, generator=generator)
    parts = [7, 1, 0, count - 8]
    return list(zip(rows.split(parts), views.split(parts), strict=True))


def _batches(source: Source, deals: list[Deal]) -> list[torch.Tensor]:
    return list(source.batches(deals))


def _fill_memory(monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    """Say that so many bytes of memory are free, which is not ours to bring about."""
    report = psutil.virtual_memory()._replace(available=available)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: report)


@pytest.mark.parametrize("position", [0, 1, 5])
def test_deals_give_the_same_batches_kept_and_computed_anew(
    position: int, network: Network, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """Every row of a batch is the image and view that was dealt, bit for bit the same from either source."""
    cached, streamed = (make(network, images, position, tmp_path) for make in (_cached, _streamed))
    deals = _deals(24)
    kept, anew = _batches(cached, deals), _batches(streamed, deals)
    for (rows, views), one, other in zip(deals, kept, anew, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype
        expected = [cached.activations[row, view] for row, view in zip(rows, views, strict=True)]
        assert all(torch.equal(*pair) for pair in zip(one, expected, strict=True))


def test_some_of_the_images_keep_their_own_activations(
    network: Network, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """Rows are numbered anew: the n-th of those taken is what it was under its old number, taken once or twice."""
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


def test_what_is_kept_later_is_what_one_pass_keeps(
    network: Network, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """A stream that fits into the room is kept, in the same bits; one byte more and it stays a stream."""
    cached, streamed = (make(network, images, 5, tmp_path) for make in (_cached, _streamed))
    size = cached.activations.nbytes
    kept = keep(streamed, placement_in(tmp_path, size))
    assert isinstance(kept, Cached)
    assert kept.position == 5
    assert torch.equal(kept.activations, cached.activations)
    assert torch.equal(kept.labels, cached.labels)
    assert keep(streamed, placement_in(tmp_path, size - 1)) is streamed


def test_views_are_the_same_for_the_same_seed_and_name(
    network: Network, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """Loading twice gives the same bits, whatever the order in which decoding threads end; views differ."""
    first, again = (_cached(network, images, 0, tmp_path).activations for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first[:, 1], first[:, 0])
    assert not torch.equal(first[:, 1], first[:, 2])


@pytest.mark.parametrize("position", [0, 3, 9])
def test_room_is_counted_before_anything_runs(
    position: int, network: Network, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """The bytes worked out in advance are those that the activations take."""
    kept = keep(_streamed(network, images, position, tmp_path), placement_in(tmp_path))
    assert kept.activations.nbytes == cache_bytes(network, position, 24, 3)


def test_more_than_half_of_the_free_memory_goes_to_an_unnamed_file(
    network: Network, images: tuple[LabeledImage, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory is short the same activations lie in a file, which no one sees and which is gone afterwards."""
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


def test_no_room_anywhere_is_an_error_that_says_what_to_do(
    network: Network, images: tuple[LabeledImage, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk ends with the size that was wanted and the options that lower it, and leaves no file."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)  # the disk, which is not ours to fill
    _fill_memory(monkeypatch, 1000)
    folder = tmp_path / "run"
    folder.mkdir()
    expected = r"activations need 0\.0 GB: too much for the memory.*run cannot take them.*No space left on device.*"
    with pytest.raises(UnfreezeError, match=expected + r"smaller --cache-gb, fewer --views or a later --cut"):
        _cached(network, images, 3, folder)
    assert list(folder.iterdir()) == []


def test_a_cache_taken_on_is_the_cache_at_the_later_cut(
    network: Network, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """Running the blocks in between on cached activations gives what one pass gives there."""
    early, late = (_cached(network, images, position, tmp_path) for position in (4, 8))
    taken_on = advance_cache(network, early, 8, FLOAT32, placement_in(tmp_path))
    torch.testing.assert_close(taken_on.activations.float(), late.activations.float(), atol=2e-2, rtol=2e-2)
    assert taken_on.position == 8
    assert torch.equal(taken_on.labels, late.labels)
    assert advance_cache(network, late, 8, FLOAT32, placement_in(tmp_path)) is late


def test_caching_leaves_the_network_as_it_was(images: tuple[LabeledImage, ...], tmp_path: Path) -> None:
    """Batch statistics of a network in eval mode do not move, nor does any weight."""
    network = small_network("mobilenet_v2")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = extracted_at(network, 5, images, tmp_path, survey=True)
    pooled_features(network, found.kept, FLOAT32)
    _batches(found.streamed, [(torch.arange(3), torch.zeros(3, dtype=torch.int64))])
    assert not network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
def test_pooled_features_are_the_same_from_every_cut(
    precision: Precision, network: Network, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """Whatever the cut and the precision, the features behind the last block agree within rounding."""
    some = images[::2]
    expected = extracted_at(network, 9, some, tmp_path, views=3).features
    for position in (0, 2, 7):
        found = pooled_features(network, _cached(network, some, position, tmp_path), precision)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 0.03 * expected.abs().max()
        first = pooled_features(network, _cached(network, some, position, tmp_path), precision, views=1)
        assert first.shape[1] == 1
        assert (first[:, 0] - expected[:, 0]).abs().max() < 0.03 * expected.abs().max()


def test_pooled_features_are_the_same_kept_and_computed_anew(images: tuple[LabeledImage, ...], tmp_path: Path) -> None:
    """All images or some, the features from a stream are bit for bit those from what was kept."""
    network = small_network("resnet18")  # maps of one pixel, as squeezenet's are here, round otherwise by their strides
    cached, streamed = (make(network, images, 3, tmp_path) for make in (_cached, _streamed))
    whole = pooled_features(network, cached, FLOAT32)
    assert torch.equal(whole, pooled_features(network, streamed, FLOAT32))
    taken = np.array([17, 2, 9, 21, 5])
    some = [pooled_features(network, source.take(taken), FLOAT32) for source in (cached, streamed)]
    assert torch.equal(some[0], some[1])
    torch.testing.assert_close(some[0], whole[taken])
