"""One pass over the images gives what a cut keeps, the features and the survey, all as the blocks give them."""

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
from unfreeze.tune.features.cache import Cached, Deal, Source, Streamed

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


def _deals(count: int, views: int) -> list[Deal]:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(count, (2 * count,), generator=generator)
    return list(zip(rows.split(7), torch.randint(views, rows.shape, generator=generator).split(7), strict=True))


def _equal(one: Source, other: Source, deals: list[Deal]) -> bool:
    return all(torch.equal(mine, yours) for mine, yours in zip(one.batches(deals), other.batches(deals), strict=True))


@pytest.mark.parametrize("backbone", ["squeezenet1_1", "resnet18", "mobilenet_v3_small"])
def test_what_is_kept_at_every_cut_is_what_the_blocks_before_it_give(
    backbone: str, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """At each cut in turn, float32 activations are kept to a step of bfloat16, and images bit for bit."""
    network, pixels = small_network(backbone), _pixels(images, 2)
    for position in range(len(network.block_names)):
        kept = extracted_at(network, position, images, tmp_path).kept
        assert kept is not None
        assert (kept.position, kept.views) == (position, 2)
        assert kept.activations.dtype == (torch.bfloat16 if position else torch.uint8)
        expected = _run(network, pixels, position).float()
        torch.testing.assert_close(kept.activations.float(), expected, rtol=BFLOAT16_STEP, atol=1e-5)
        assert kept.labels.tolist() == [image.label for image in images]


def test_in_bfloat16_rounding_is_all_that_differs(images: tuple[LabeledImage, ...], tmp_path: Path) -> None:
    """A pass in bfloat16 gives activations, features and borders that are those of float32 within a few per cent."""
    network = small_network()
    exact, rounded = (
        extracted_at(network, 5, images[:8], tmp_path, precision=precision, survey=True)
        for precision in (FLOAT32, BFLOAT16)
    )
    pairs = [(exact.kept.activations, rounded.kept.activations), (exact.features, rounded.features)]
    for one, other in [*pairs, *((exact.borders[key], rounded.borders[key]) for key in exact.borders)]:
        assert (one.float() - other.float()).abs().max() < 0.03 * one.float().abs().max()
        assert not torch.equal(one, other)


def test_features_are_the_last_blocks_output_averaged(images: tuple[LabeledImage, ...], tmp_path: Path) -> None:
    """Features are float32 means over the area of what the last block gives, for every view, wherever the cut is."""
    network = small_network("resnet18")
    last = len(network.block_names)
    expected = _run(network, _pixels(images, 2), last).mean((3, 4))
    for position in (0, 3, last):
        features = extracted_at(network, position, images, tmp_path).features
        assert features.dtype == torch.float32
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def _pool_expected(backbone: str, activations: Tensor, *, is_last: bool) -> Tensor:
    """Pool by hand: maps are [n, F, h, w], but swin's [n, h, w, F] and a transformer's tokens [n, T, F]."""
    if is_last or backbone == "resnet18":
        flat = activations.flatten(2)
    elif backbone == "swin_t":
        flat = activations.flatten(1, 2).transpose(1, 2)
    else:
        flat = activations.transpose(1, 2)
    return torch.cat([flat.mean(2), flat.max(2).values], 1)


@pytest.mark.parametrize("backbone", ["resnet18", "swin_t", "vit_b_16"])
def test_borders_are_pooled_by_average_and_by_maximum(
    backbone: str, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """Behind every block, of convolutions, of windows and of tokens, the survey gets the averages, then the maxima."""
    options = {"image_size": 32} if backbone == "vit_b_16" else {}
    network, some = small_network(backbone, **options), images[:5]
    pixels, last = _pixels(some, 2), len(network.block_names)
    borders = extracted_at(network, last, some, tmp_path, survey=True).borders
    assert sorted(borders) == list(range(1, last + 1))
    for position, found in borders.items():
        activations = _run(network, pixels, position).flatten(0, 1)
        expected = _pool_expected(backbone, activations, is_last=position == last).unflatten(0, (5, 2))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_of_many_images_some_evenly_spaced_ones_are_surveyed(
    images: tuple[LabeledImage, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit of 10, two batches of four of 24 images are surveyed, and those rows are theirs."""
    network = small_network()
    whole = extracted_at(network, 5, images, tmp_path, survey=True)
    assert whole.surveyed.tolist() == list(range(24))
    monkeypatch.setattr(unfreeze.tune.features.extract, "SURVEYED_IMAGES", 10)
    part = extracted_at(network, 5, images, tmp_path, survey=True)
    assert part.surveyed.tolist() == [0, 1, 2, 3, 12, 13, 14, 15]
    for position, found in part.borders.items():
        assert torch.equal(found, whole.borders[position][part.surveyed])
    assert torch.equal(part.features, whole.features)


def test_without_a_survey_nothing_is_pooled_on_the_way(images: tuple[LabeledImage, ...], tmp_path: Path) -> None:
    """Who asks for none gets no surveyed image and no border."""
    found = extracted_at(small_network(), 5, images, tmp_path)
    assert found.borders == {}
    assert found.surveyed.tolist() == []


@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("position", [0, 6])
def test_over_the_budget_activations_are_computed_anew_to_the_same_bits(
    position: int, precision: Precision, images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """One byte too few keeps nothing; what then streams from the images equals what would have been kept."""
    network, some = small_network(), images[:10]
    kept = extracted_at(network, position, some, tmp_path, precision=precision).kept
    size = kept.activations.nbytes
    assert extracted_at(network, position, some, tmp_path, precision=precision, budget_bytes=size).kept is not None
    over = extracted_at(network, position, some, tmp_path, precision=precision, budget_bytes=size - 1)
    assert over.kept is None
    source = over.source_at(position, placement_in(tmp_path, size - 1))
    assert isinstance(source, Streamed)
    assert _equal(source, kept, _deals(10, 2))
    assert torch.equal(source.labels, kept.labels)


def test_a_file_that_does_not_decode_is_left_out_and_named(images: tuple[LabeledImage, ...], tmp_path: Path) -> None:
    """What is kept, the features, the borders and the labels are those of the other images, in their order."""
    network = small_network()
    whole = extracted_at(network, 5, images, tmp_path, survey=True)
    images[10].path.write_bytes(b"no image")
    found = extracted_at(network, 5, images, tmp_path, survey=True)
    others = torch.tensor([row for row in range(24) if row != 10])
    assert [item.path for item in found.skipped] == [images[10].path]
    assert found.streamed.images == tuple(images[row] for row in others)
    assert torch.equal(found.labels, whole.labels[others])
    assert torch.equal(found.kept.activations, whole.kept.activations[others])
    torch.testing.assert_close(found.features, whole.features[others])
    for position in whole.borders:
        torch.testing.assert_close(found.borders[position], whole.borders[position][others])
    assert _equal(found.streamed, found.kept, _deals(23, 2))


def test_a_later_cut_is_taken_from_what_is_kept_and_an_earlier_one_from_the_images(
    images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """Where nothing is kept before a cut, the images are run once more; either way a cut's activations come out."""
    network = small_network()
    middle = extracted_at(network, 5, images, tmp_path)
    placement = placement_in(tmp_path)
    assert middle.source_at(5, placement) is middle.kept
    earlier, later = middle.source_at(2, placement), middle.source_at(8, placement)
    assert isinstance(earlier, Cached)
    assert torch.equal(earlier.activations, extracted_at(network, 2, images, tmp_path).kept.activations)
    expected = extracted_at(network, 8, images, tmp_path).kept.activations.float()
    difference = (later.activations.float() - expected).abs().max()
    assert difference < 0.03 * expected.abs().max()
    assert earlier.position == 2
    assert later.position == 8


def test_a_later_cut_that_takes_too_much_room_is_computed_anew(
    images: tuple[LabeledImage, ...], tmp_path: Path
) -> None:
    """One byte more than there is room for, and nothing is kept at that cut, whatever is kept at an earlier one."""
    network = small_network()
    middle = extracted_at(network, 5, images, tmp_path)
    size = middle.source_at(8, placement_in(tmp_path)).activations.nbytes
    assert middle.source_at(8, placement_in(tmp_path, size)).position == 8
    over = middle.source_at(8, placement_in(tmp_path, size - 1))
    assert isinstance(over, Streamed)
    assert over.position == 8


def test_at_the_head_the_features_are_all_that_is_kept(images: tuple[LabeledImage, ...], tmp_path: Path) -> None:
    """Behind the last block no activations are kept, whatever the room."""
    network = small_network()
    assert extracted_at(network, len(network.block_names), images, tmp_path).kept is None


def test_a_network_that_makes_no_numbers_of_images_is_refused(images: tuple[LabeledImage, ...], tmp_path: Path) -> None:
    """Weights that have gone wrong are told as what they are, before anything is fitted on what they give."""
    network = small_network()
    with torch.no_grad():
        next(network.parameters()).fill_(torch.inf)
    with pytest.raises(WeightsError, match="makes numbers of the images that are none"):
        extracted_at(network, 3, images, tmp_path)


class _Counting:
    """Counts the steps of the work that is reported."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.totals: list[int] = []

    def info(self, text: str) -> None:
        """Tell nobody."""

    def track(self, what: str, total: int) -> Callable[[int], None]:  # noqa: ARG002 - any work will do
        """Take up the steps."""
        self.totals.append(total)
        return self.steps.append


def test_progress_counts_the_images(images: tuple[LabeledImage, ...], tmp_path: Path) -> None:
    """The steps add up to the images that decode, in the pass and where it is run once more."""
    network, steps, again = small_network(), [], _Counting()
    recipe = Views(spec=SPEC, count=2, seed=1)
    found = unfreeze.tune.features.extract.gather(
        network, 5, images, recipe, FLOAT32, placement_in(tmp_path), steps.append
    )
    assert sum(steps) == 24
    found.source_at(2, placement_in(tmp_path), again)
    assert (sum(again.steps), again.totals) == (24, [24])
