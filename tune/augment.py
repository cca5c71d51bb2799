"""Vary cached activations, which costs next to nothing: mirrored, and mixed in pairs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tune.network import Network


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A batch whose pictures are mixed with others of it.

    Args:
        batch: [n, ...].
        partners: with which of the batch, int64 [n].
        share: of the first one, 0.5 to 1; 1 where nothing is mixed.
    """

    batch: Tensor
    partners: Tensor
    share: float


def mirrored(network: Network, batch: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the chosen pictures or activations of a batch left to right; tokens stay as they are.

    Args:
        network: whose activations they are.
        batch: [n, ...].
        chosen: bool [n].
    """
    axis = network.width_axis(batch)
    if axis is None:
        return batch
    return torch.where(chosen.view(-1, 1, 1, 1), batch.flip(axis), batch)


def mixed(network: Network, batch: Tensor, alpha: float, generator: torch.Generator) -> Mixture:
    """Mix a batch with itself in another order (Zhang et al. 2018, arXiv:1710.09412), at the cut.

    Args:
        network: normalises pictures before they are mixed.
        batch: [n, ...].
        alpha: of the beta distribution that the share is drawn from; 0 mixes nothing.
        generator: of chance.
    """
    if not alpha:
        return Mixture(batch=batch, partners=torch.arange(len(batch)), share=1.0)
    partners = torch.randperm(len(batch), generator=generator)
    # Two gamma variates make a beta variate; torch's beta distribution takes no generator.
    draws = torch._standard_gamma(torch.full((2,), alpha), generator=generator)  # noqa: SLF001
    share = float(draws.max() / draws.sum())
    activations = network.normalised(batch)
    return Mixture(batch=share * activations + (1 - share) * activations[partners], partners=partners, share=share)
