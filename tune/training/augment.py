"""Vary what is trained on, which costs next to nothing: images are flipped, and activations mixed in pairs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unfreeze.tune.backbones.network import Network


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A batch whose images are mixed with others of it.

    Args:
        batch: [n, ...].
        partners: with which of the batch, int64 [n].
        share: of the first one, 0.5 to 1; 1 where nothing is mixed.
    """

    batch: Tensor
    partners: Tensor
    share: float


def flipped(images: Tensor, chosen: Tensor) -> Tensor:
    """Flip the chosen ones of prepared images left to right.

    Not for activations: filters look different from both sides, so that no image gives a flipped map. A probe of
    SqueezeNet's features falls from 0.94 to 0.80 on hymenoptera's photographs when the maps at its middle are flipped.

    Args:
        images: uint8 [n, H, W, 3].
        chosen: bool [n].
    """
    chosen = chosen.to(images.device, non_blocking=True)
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(2), images)


def mixed(network: Network, batch: Tensor, alpha: float, generator: torch.Generator) -> Mixture:
    """Mix a batch with itself in another order (Zhang et al. 2018, arXiv:1710.09412), at the cut.

    Args:
        network: normalizes images before they are mixed.
        batch: [n, ...].
        alpha: of the beta distribution that the share is drawn from; 0 mixes nothing.
        generator: of chance.
    """
    if not alpha:
        return Mixture(batch=batch, partners=torch.arange(len(batch)), share=1.0)
    partners = torch.randperm(len(batch), generator=generator).to(batch.device, non_blocking=True)
    # Two gamma variates make a beta variate; torch's beta distribution takes no generator.
    draws = torch._standard_gamma(torch.full((2,), alpha), generator=generator)  # noqa: SLF001
    share = float(draws.max() / draws.sum())
    activations = network.normalized(batch)
    return Mixture(batch=share * activations + (1 - share) * activations[partners], partners=partners, share=share)
