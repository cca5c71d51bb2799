"""Classify labeled images with a network in full precision."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from unfreeze.contract.arrays import Float32
from unfreeze.contract.errors import DataError
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.tune.backbones.link import SOFTMAX, negative_log_likelihoods, probabilities
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.data.dataset import LabeledImage, Skipped
from unfreeze.tune.data.images import labels_of
from unfreeze.tune.data.views import Views, load_views
from unfreeze.tune.device.memory import halve_on_oom
from unfreeze.tune.device.staging import stack_images

_CPU_BATCH, _CUDA_BATCH = 4, 64  # activations of 4 images are small enough for malloc to reuse freed memory
_TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Logits of labeled images.

    Args:
        logits: float32 [N, C].
        labels: int64 [N].
        images: the N images.
        skipped: files that could not be decoded.
        link: how logits become probabilities, "softmax" or "sigmoid".
    """

    logits: Tensor
    labels: Tensor
    images: tuple[LabeledImage, ...]
    skipped: tuple[Skipped, ...]
    link: str = SOFTMAX

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy, 0 to 1."""
        return (self.logits.argmax(1) == self.labels).double().mean().item()

    def negative_log_likelihood(self, temperature: float = 1.0) -> float:
        """Return the mean over the images, in nats."""
        return negative_log_likelihoods(self.logits, self.labels, self.link, temperature).mean().item()

    def probabilities(self, temperature: float) -> Float32[np.ndarray, "n c"]:
        """Return the probability of every class, after division of the logits by the temperature."""
        return probabilities(self.logits, self.link, temperature).numpy()


def evaluate(
    network: Network,
    images: Sequence[LabeledImage],
    spec: PreprocessSpec,
    device: torch.device,
    advance: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Classify images with the whole network in float32: the reference for the exported model.

    Args:
        network: on the device.
        images: those that cannot be decoded are left out.
        spec: how they are prepared, see `unfreeze.contract.images.preprocess`.
        device: the device to compute on.
        advance: called with the number of images since the last call.

    Raises:
        DataError: no image can be decoded.
    """
    return evaluate_together([network], 0, images, spec, device, advance)[0]


def evaluate_together(
    networks: Sequence[Network],
    shared: int,
    images: Sequence[LabeledImage],
    spec: PreprocessSpec,
    device: torch.device,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Evaluation]:
    """Evaluate several networks whose first `shared` blocks are identical; those blocks run once per image."""
    skipped: list[Skipped] = []
    kept: list[LabeledImage] = []
    logits: list[list[Tensor]] = [[] for _ in networks]
    for network in networks:
        network.eval()
    batch_size = _CPU_BATCH if device.type == "cpu" else _CUDA_BATCH
    loaded = load_views(images, Views(spec=spec), skipped)
    while chunk := list(islice(loaded, batch_size)):
        batch = stack_images([views for _, views in chunk], device).flatten(0, 1)
        for computed in halve_on_oom(partial(_logits, networks, shared, device), batch):
            for collected, of_network in zip(logits, computed, strict=True):
                collected.append(of_network)
        kept += [image for image, _ in chunk]
        advance(len(chunk))
    if not kept:
        raise DataError(
            f"none of the {len(images)} images can be decoded; the first one: {skipped[0].path}: {skipped[0].reason}"
        )
    labels = labels_of(kept)
    return [
        Evaluation(
            logits=torch.cat(collected).clone(),
            labels=labels,
            images=tuple(kept),
            skipped=tuple(skipped),
            link=network.head.link,
        )
        for network, collected in zip(networks, logits, strict=True)
    ]


def _logits(networks: Sequence[Network], shared: int, device: torch.device, batch: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        trunk = networks[0].run_blocks(batch.to(device, non_blocking=True), 0, shared)
        return [network.run_tail(trunk, shared).float().cpu() for network in networks]


def fit_temperature(evaluation: Evaluation) -> float:
    """Fit the temperature that calibrates the probabilities (Guo et al. 2017, arXiv:1706.04599).

    Returns:
        The divisor of the logits that minimizes the negative log-likelihood, 0.05 to 20.
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log: evaluation.negative_log_likelihood(float(np.exp(log))),
        bounds=tuple(np.log(_TEMPERATURES)),
        method="bounded",
    )
    return float(np.exp(found.x))
