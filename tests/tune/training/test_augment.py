"""Flipped and mixed activations: what is shown stands for what is answered."""

import numpy as np
import pytest
import torch
from scipy import stats
from support.tuning import small_network

from unfreeze.tune.backbones.network import Network
from unfreeze.tune.training.augment import flipped, mixed

CHOSEN = torch.tensor([True, False, True, False, False, True])


@pytest.fixture
def network() -> Network:
    """A small network with random weights."""
    return small_network()


def test_images_are_flipped_left_to_right() -> None:
    """Those chosen are turned about along their width, [n, H, W, 3], in uint8; the others stay."""
    images = torch.randint(0, 256, (6, 4, 5, 3), dtype=torch.uint8)
    found = flipped(images, CHOSEN)
    assert found.dtype == torch.uint8
    assert torch.equal(found[CHOSEN], images[CHOSEN].flip(2))
    assert torch.equal(found[~CHOSEN], images[~CHOSEN])
    assert not torch.equal(found, images)


def test_without_alpha_nothing_is_mixed(network: Network) -> None:
    """At 0 the very batch comes back, with itself as partners, and no chance is spent."""
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    for batch in (torch.rand(4, 3, 2, 2), torch.randint(0, 256, (4, 6, 6, 3), dtype=torch.uint8)):
        mixture = mixed(network, batch, 0.0, generator)
        assert mixture.batch is batch
        assert mixture.partners.tolist() == [0, 1, 2, 3]
        assert mixture.share == 1.0
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 5.0])
def test_a_mixture_is_its_share_of_each_of_two(network: Network, alpha: float) -> None:
    """Row by row, the share of one and the rest of its partner, the larger share being its own."""
    generator = torch.Generator().manual_seed(1)
    batch = torch.rand(5, 3, 2, 2)
    for _ in range(20):
        mixture = mixed(network, batch, alpha, generator)
        assert sorted(mixture.partners.tolist()) == [0, 1, 2, 3, 4]
        assert 0.5 <= mixture.share <= 1
        for row, partner in enumerate(mixture.partners):
            expected = mixture.share * batch[row] + (1 - mixture.share) * batch[partner]
            torch.testing.assert_close(mixture.batch[row], expected)


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_shares_are_the_larger_part_of_a_beta_variate(network: Network, alpha: float) -> None:
    """Over a thousand draws, their distribution is that of max(b, 1 - b) for b of Beta(alpha, alpha)."""
    generator, batch = torch.Generator().manual_seed(2), torch.zeros(2, 1, 1, 1)
    shares = np.array([mixed(network, batch, alpha, generator).share for _ in range(1000)])
    beta = stats.beta(alpha, alpha)
    assert stats.kstest(shares, lambda share: 2 * beta.cdf(share) - 1).pvalue > 0.01


def test_images_are_normalized_before_they_are_mixed(network: Network) -> None:
    """Images in uint8 become what the first block takes, and are mixed there."""
    images = torch.randint(0, 256, (4, 6, 6, 3), dtype=torch.uint8)
    mixture = mixed(network, images, 1.0, torch.Generator().manual_seed(3))
    normal = network.normalize(images)
    expected = mixture.share * normal + (1 - mixture.share) * normal[mixture.partners]
    torch.testing.assert_close(mixture.batch, expected)
    assert mixture.share < 1
    with torch.inference_mode():
        large = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
        unmixed = mixed(network, large, 0.0, torch.Generator()).batch
        torch.testing.assert_close(network(large), network.run_tail(network.normalized(unmixed), 0))


def test_equal_generators_mix_alike(network: Network) -> None:
    """Chance comes from the generator that is handed in, and from nowhere else."""
    batch = torch.rand(8, 3, 2, 2)
    found = []
    for seed in (4, 4, 5):
        torch.manual_seed(seed + len(found))
        found.append(mixed(network, batch, 0.5, torch.Generator().manual_seed(seed)))
    assert torch.equal(found[0].batch, found[1].batch)
    assert found[0].share == found[1].share
    assert found[0].share != found[2].share
