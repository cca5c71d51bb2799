"""One pass over the images: cached activations, features and the survey equal what the blocks compute."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.runs import SPEC
from support.tuning import BFLOAT16, FLOAT32, extracted_at, placement_in, small_network, training_images
from torch import Tensor

import unfreeze.tune.features.extract
from unfreeze.contract.errors import WeightsError
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.data.images import LabeledImage
from unfreeze.tune.data.views import Views, make_views
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.features.activations import ActivationSource, BatchIndices, Cached, PartlyCached, Streamed

BFLOAT16_STEP = 2**-8


@pytest.fixture
def images(tmp_path: Path) -> tuple[LabeledImage, ...]:
    """Eight images of each of three colors."""
    return training_images(tmp_path)


def _pixels(images: tuple[LabeledImage, ...], views: int) -> Tensor:
    recipe = Views(spec=SPEC, count=views, seed=1)
    made = [make_views(image.path.read_bytes(), image.path.name, recipe) for image in images]
    return torch.from_numpy(np.stack(made))


def _run(network: Network, pixels: Tensor, position: int) -> Tensor:
    """Run the first blocks over [N, V, H, W, 3] at once, in float32."""
    if position == 0:
        return pixels
    with torch.inference_mode():
        return network.run_blocks(pixels.flatten(0, 1), 0, position).unflatten(0, pixels.shape[:2])


def _indices(count: int, views: int) -> list[BatchIndices]:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(count, (2 * count,), generator=generator)
    return list(zip(rows.split(7), torch.randint(views, rows.shape, generator=generator).split(7), strict=True))


def _equal(one: ActivationSource, other: ActivationSource, indices: list[BatchIndices]) -> bool:
    return all(
        torch.equal(mine, yours) for mine, yours in zip(one.batches(indices), other.batches(indices), strict=True)
    )


@pytest.mark.parametrize("backbone", ["squeezenet1_1", "resnet18", "mobilenet_v3_small"])
def test_cached_activations_equal_the_output_of_the_blocks_before_the_cut(
    backbone: str, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """At every cut, activations are equal within the rounding of bfloat16, and images exactly."""
    network, pixels = small_network(backbone), _pixels(images, 2)
    for position in range(len(network.block_names)):
        kept = extracted_at(network, position, images, tmp_path).cached
        assert kept is not None
        assert (kept.position, kept.views) == (position, 2)
        assert kept.activations.dtype == (torch.bfloat16 if position else torch.uint8)
        expected = _run(network, pixels, position).float()
        torch.testing.assert_close(kept.activations.float(), expected, rtol=BFLOAT16_STEP, atol=1e-5)
        assert kept.labels.tolist() == [image.label for image in images]


def test_batches_of_cached_maps_need_no_transposition(images: tuple[LabeledImage, ...], tmp_path: Path) -> None:
    """They have the features innermost, as training wants them; also those of a part, and those of a later cut."""
    kept = extracted_at(small_network(), 3, images, tmp_path)
    for source in (kept.cached, kept.source_at(4, placement_in(tmp_path))):
        assert source is not None
        batches = [*source.batches(_indices(24, 2)), *source.take(np.arange(5, 20)).batches(_indices(15, 2))]
        assert all(batch.ndim == 4 and batch.is_contiguous(memory_format=torch.channels_last) for batch in batches)


def test_bfloat16_differs_by_rounding_only(images: tuple[LabeledImage, ...], tmp_path: Path) -> None:
    """Activations, features and borders are those of float32 within a few percent."""
    network = small_network()
    exact, rounded = (
        extracted_at(network, 5, images[:8], tmp_path, precision=precision, survey=True)
        for precision in (FLOAT32, BFLOAT16)
    )
    pairs = [(exact.cached.activations, rounded.cached.activations), (exact.features, rounded.features)]
    for one, other in [*pairs, *((exact.borders[key], rounded.borders[key]) for key in exact.borders)]:
        assert (one.float() - other.float()).abs().max() < 0.03 * one.float().abs().max()
        assert not torch.equal(one, other)


def test_features_are_the_averaged_output_of_the_last_block(images: tuple[LabeledImage, ...], tmp_path: Path) -> None:
    """For every view, at any cut, in float32."""
    network = small_network("resnet18")
    last = len(network.block_names)
    expected = _run(network, _pixels(images, 2), last).mean((3, 4))
    for position in (0, 3, last):
        features = extracted_at(network, position, images, tmp_path).features
        assert features.dtype == torch.float32
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def _pool_expected(backbone: str, activations: Tensor, *, is_last: bool) -> Tensor:
    """Pool by hand: maps are [n, F, h, w], but swin's [n, h, w, F] and a transformer's tokens [n, T, F].

    A vision transformer ends with its class token, [n, F].
    """
    if is_last and backbone == "vit_b_16":
        return activations  # the class token
    if is_last or backbone == "resnet18":
        flat = activations.flatten(2)
    elif backbone == "swin_t":
        flat = activations.flatten(1, 2).transpose(1, 2)
    else:
        flat = activations.transpose(1, 2)
    return torch.cat([flat.mean(2), flat.max(2).values], 1)


@pytest.mark.parametrize("backbone", ["resnet18", "swin_t", "vit_b_16"])
def test_every_border_is_pooled_by_average_and_maximum(
    backbone: str, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """After every block, of feature maps in either layout and of tokens: the averages, then the maxima."""
    network, some = small_network(backbone), images[:5]
    pixels, last = _pixels(some, 2), len(network.block_names)
    borders = extracted_at(network, last, some, tmp_path, survey=True).borders
    assert sorted(borders) == list(range(1, last + 1))
    for position, found in borders.items():
        activations = _run(network, pixels, position).flatten(0, 1)
        expected = _pool_expected(backbone, activations, is_last=position == last).unflatten(0, (5, 2))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_survey_uses_evenly_spaced_images_of_many(
    images: tuple[LabeledImage, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit of 10, two batches of 4 out of 24 images are surveyed."""
    network = small_network()
    whole = extracted_at(network, 5, images, tmp_path, survey=True)
    assert whole.surveyed.tolist() == list(range(24))
    monkeypatch.setattr(unfreeze.tune.features.extract, "SURVEYED_IMAGES", 10)
    part = extracted_at(network, 5, images, tmp_path, survey=True)
    assert part.surveyed.tolist() == [0, 1, 2, 3, 12, 13, 14, 15]
    for position, found in part.borders.items():
        assert torch.equal(found, whole.borders[position][part.surveyed])
    assert torch.equal(part.features, whole.features)


def test_without_a_survey_no_border_is_pooled(images: tuple[LabeledImage, ...], tmp_path: Path) -> None:
    """No images are surveyed unless requested."""
    found = extracted_at(small_network(), 5, images, tmp_path)
    assert found.borders == {}
    assert found.surveyed.tolist() == []


@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("position", [0, 6])
def test_over_the_budget_activations_are_streamed_with_equal_values(
    position: int, precision: Precision, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """With a budget one byte too small one image is not cached, with none all are not; all values are equal."""
    network, some = small_network(), images[:10]
    kept = extracted_at(network, position, some, tmp_path, precision=precision).cached
    size = kept.activations.nbytes
    assert extracted_at(network, position, some, tmp_path, precision=precision, budget_bytes=size).cached is not None
    for budget, kind in ((size - 1, PartlyCached), (size // 10 - 1, Streamed)):
        over = extracted_at(network, position, some, tmp_path, precision=precision, budget_bytes=budget)
        source = over.source_at(position, placement_in(tmp_path, budget))
        assert isinstance(source, kind)
        assert _equal(source, kept, _indices(10, 2))
        assert torch.equal(source.labels, kept.labels)


def test_a_file_that_does_not_decode_is_skipped_and_reported(images: tuple[LabeledImage, ...], tmp_path: Path) -> None:
    """Activations, features, borders and labels are those of the other images, in order."""
    network = small_network()
    whole = extracted_at(network, 5, images, tmp_path, survey=True)
    images[10].path.write_bytes(b"no image")
    found = extracted_at(network, 5, images, tmp_path, survey=True)
    others = torch.tensor([row for row in range(24) if row != 10])
    assert [item.path for item in found.skipped] == [images[10].path]
    assert found.streamed.images == tuple(images[row] for row in others)
    assert torch.equal(found.labels, whole.labels[others])
    assert torch.equal(found.cached.activations, whole.cached.activations[others])
    torch.testing.assert_close(found.features, whole.features[others])
    for position in whole.borders:
        torch.testing.assert_close(found.borders[position], whole.borders[position][others])
    assert _equal(found.streamed, found.cached, _indices(23, 2))


def test_a_later_cut_is_computed_from_the_cache_and_an_earlier_one_from_the_images(
    images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """Both give the activations at that cut."""
    network = small_network()
    middle = extracted_at(network, 5, images, tmp_path)
    placement = placement_in(tmp_path)
    assert middle.source_at(5, placement) is middle.cached
    earlier, later = middle.source_at(2, placement), middle.source_at(8, placement)
    assert isinstance(earlier, Cached)
    assert torch.equal(earlier.activations, extracted_at(network, 2, images, tmp_path).cached.activations)
    expected = extracted_at(network, 8, images, tmp_path).cached.activations.float()
    difference = (later.activations.float() - expected).abs().max()
    assert difference < 0.03 * expected.abs().max()
    assert earlier.position == 2
    assert later.position == 8


def test_a_later_cut_shares_the_budget_with_the_earlier_one(images: tuple[LabeledImage, ...], tmp_path: Path) -> None:
    """Both are cached if both fit; else a part of the later one, or nothing of it, with values that are close."""
    network = small_network()
    middle = extracted_at(network, 5, images, tmp_path)
    whole = middle.source_at(8, placement_in(tmp_path))
    first, size = middle.cached.activations.nbytes, whole.activations.nbytes
    assert isinstance(middle.source_at(8, placement_in(tmp_path, first + size)), Cached)
    partly = middle.source_at(8, placement_in(tmp_path, first + size - 1))
    assert isinstance(partly, PartlyCached)
    assert len(partly.rows) == 23
    assert torch.equal(partly.cached.activations, whole.activations[partly.rows])
    again = extracted_at(network, 5, images, tmp_path, budget_bytes=first - 1).source_at(8, placement_in(tmp_path))
    assert torch.equal(again.cached.activations, whole.activations[again.rows])
    for source in (partly, again):
        assert source.position == 8
        for one, other in zip(*(each.batches(_indices(24, 2)) for each in (source, whole)), strict=True):
            assert (one.float() - other.float()).abs().max() < 0.03 * other.float().abs().max()
    assert isinstance(middle.source_at(8, placement_in(tmp_path, first)), Streamed)


def test_nothing_is_cached_behind_the_last_block(images: tuple[LabeledImage, ...], tmp_path: Path) -> None:
    """The features suffice there."""
    network = small_network()
    assert extracted_at(network, len(network.block_names), images, tmp_path).cached is None


def test_rejects_a_network_whose_features_are_not_finite(images: tuple[LabeledImage, ...], tmp_path: Path) -> None:
    """Damaged weights are reported before anything is fitted on their features."""
    network = small_network()
    with torch.no_grad():
        next(network.parameters()).fill_(torch.inf)
    with pytest.raises(WeightsError, match="features are NaN or infinite"):
        extracted_at(network, 3, images, tmp_path)


class _Counting:
    """Records the steps of progress bars."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.totals: list[int] = []

    def info(self, text: str) -> None:
        """Ignore messages."""

    def track(self, what: str, total: int) -> Callable[[int], None]:  # noqa: ARG002 - the label does not matter
        """Record the steps."""
        self.totals.append(total)
        return self.steps.append


def test_progress_counts_the_images(images: tuple[LabeledImage, ...], tmp_path: Path) -> None:
    """The steps add up to the number of images, in the pass and when a cut is computed again."""
    network, steps, again = small_network(), [], _Counting()
    recipe = Views(spec=SPEC, count=2, seed=1)
    found = unfreeze.tune.features.extract.extract_features(
        network, 5, images, recipe, FLOAT32, placement_in(tmp_path), steps.append
    )
    assert sum(steps) == 24
    found.source_at(2, placement_in(tmp_path), again)
    assert (sum(again.steps), again.totals) == (24, [24])
