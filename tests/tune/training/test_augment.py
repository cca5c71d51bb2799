"""Augmentation: random flips and quarter turns of images, and mixup."""

import numpy as np
import pytest
import torch
from scipy import stats
from support.tuning import small_network

from unfreeze.tune.backbones.network import Network
from unfreeze.tune.training.augment import flip_selected, mixup, rotate_quarters

SELECTED = torch.tensor([True, False, True, False, False, True])


@pytest.fixture
def network() -> Network:
    """A small network with random weights."""
    return small_network()


def test_selected_images_are_flipped_horizontally() -> None:
    """The selected ones, along their width; the others are unchanged."""
    images = torch.randint(0, 256, (6, 4, 5, 3), dtype=torch.uint8)
    found = flip_selected(images, SELECTED)
    assert found.dtype == torch.uint8
    assert torch.equal(found[SELECTED], images[SELECTED].flip(2))
    assert torch.equal(found[~SELECTED], images[~SELECTED])
    assert not torch.equal(found, images)


def test_images_are_rotated_by_quarter_turns() -> None:
    """Each by its own number of turns, as `torch.rot90` does; images that are not square only by 180 degrees."""
    turns = torch.tensor([0, 1, 2, 3, 1, 2])
    square, wide = (torch.randint(0, 256, (6, 4, width, 3), dtype=torch.uint8) for width in (4, 5))
    for found, image, turn in zip(rotate_quarters(square, turns), square, turns.tolist(), strict=True):
        assert torch.equal(found, image.rot90(-turn, (0, 1)))
    half_turned = torch.where(turns.view(-1, 1, 1, 1) >= 2, wide.flip(1, 2), wide)
    assert torch.equal(rotate_quarters(wide, turns), half_turned)


def test_without_alpha_nothing_is_mixed(network: Network) -> None:
    """With alpha 0 the batch is returned unchanged, and no random numbers are drawn."""
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    for batch in (torch.rand(4, 3, 2, 2), torch.randint(0, 256, (4, 6, 6, 3), dtype=torch.uint8)):
        mixture = mixup(network, batch, 0.0, generator)
        assert mixture.batch is batch
        assert mixture.partners.tolist() == [0, 1, 2, 3]
        assert mixture.share == 1.0
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 5.0])
def test_samples_are_mixed_by_their_share(network: Network, alpha: float) -> None:
    """Each row is a weighted mean of a sample and its partner; the sample itself has at least half."""
    generator = torch.Generator().manual_seed(1)
    batch = torch.rand(5, 3, 2, 2)
    for _ in range(20):
        mixture = mixup(network, batch, alpha, generator)
        assert sorted(mixture.partners.tolist()) == [0, 1, 2, 3, 4]
        assert 0.5 <= mixture.share <= 1
        for row, partner in enumerate(mixture.partners):
            expected = mixture.share * batch[row] + (1 - mixture.share) * batch[partner]
            torch.testing.assert_close(mixture.batch[row], expected)


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_shares_follow_a_folded_beta_distribution(network: Network, alpha: float) -> None:
    """A thousand shares are distributed like max(b, 1 - b) for b of Beta(alpha, alpha)."""
    generator, batch = torch.Generator().manual_seed(2), torch.zeros(2, 1, 1, 1)
    shares = np.array([mixup(network, batch, alpha, generator).share for _ in range(1000)])
    beta = stats.beta(alpha, alpha)
    assert stats.kstest(shares, lambda share: 2 * beta.cdf(share) - 1).pvalue > 0.01


def test_images_are_normalized_before_they_are_mixed(network: Network) -> None:
    """uint8 images are converted to the first block's input and then mixed."""
    images = torch.randint(0, 256, (4, 6, 6, 3), dtype=torch.uint8)
    mixture = mixup(network, images, 1.0, torch.Generator().manual_seed(3))
    normal = network.normalize(images)
    expected = mixture.share * normal + (1 - mixture.share) * normal[mixture.partners]
    torch.testing.assert_close(mixture.batch, expected)
    assert mixture.share < 1
    with torch.inference_mode():
        large = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
        unmixed = mixup(network, large, 0.0, torch.Generator()).batch
        torch.testing.assert_close(network(large), network.run_tail(network.normalized(unmixed), 0))


def test_mixup_depends_on_its_generator_only(network: Network) -> None:
    """Equal generators give equal batches, whatever the state of the global one."""
    batch = torch.rand(8, 3, 2, 2)
    found = []
    for seed in (4, 4, 5):
        torch.manual_seed(seed + len(found))
        found.append(mixup(network, batch, 0.5, torch.Generator().manual_seed(seed)))
    assert torch.equal(found[0].batch, found[1].batch)
    assert found[0].share == found[1].share
    assert found[0].share != found[2].share
