"""What a network answers to images, in full precision, and how good that is."""

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
from unfreeze.tune.device.memory import in_halves
from unfreeze.tune.device.staging import stacked

_CPU_BATCH, _CUDA_BATCH = 4, 64  # the largest activations of four images stay below what is asked of the kernel anew
_TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Logits of labeled images.

    Args:
        logits: float32 [N, C].
        labels: int64 [N].
        images: the N images.
        skipped: the files that did not decode.
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
        """Mean over the images, in nats."""
        return negative_log_likelihoods(self.logits, self.labels, self.link, temperature).mean().item()

    def probabilities(self, temperature: float) -> Float32[np.ndarray, "n c"]:
        """Give each class its probability, the logits divided by the temperature first."""
        return probabilities(self.logits, self.link, temperature).numpy()


def evaluate(
    network: Network,
    images: Sequence[LabeledImage],
    spec: PreprocessSpec,
    device: torch.device,
    advance: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Classify images with the whole network in float32: what the exported file is held against.

    Args:
        network: on the device.
        images: prepared with `unfreeze.contract.images.preprocess`; those that do not decode are left out.
        spec: how.
        device: where.
        advance: called with the number of images done.

    Raises:
        DataError: not one image decodes.
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
    """Do as `evaluate` does, for networks whose first `shared` blocks are the same: those run once."""
    skipped: list[Skipped] = []
    kept: list[LabeledImage] = []
    logits: list[list[Tensor]] = [[] for _ in networks]
    for network in networks:
        network.eval()
    batch_size = _CPU_BATCH if device.type == "cpu" else _CUDA_BATCH
    loaded = load_views(images, Views(spec=spec), skipped)
    while chunk := list(islice(loaded, batch_size)):
        batch = stacked([made for _, made in chunk], device).flatten(0, 1)
        for answers in in_halves(partial(_answers, networks, shared, device), batch):
            for own, answer in zip(logits, answers, strict=True):
                own.append(answer)
        kept += [image for image, _ in chunk]
        advance(len(chunk))
    if not kept:
        raise DataError(f"none of the {len(images)} images decodes; the first: {skipped[0].path}: {skipped[0].reason}")
    labels = labels_of(kept)
    return [
        Evaluation(
            logits=torch.cat(own).clone(),
            labels=labels,
            images=tuple(kept),
            skipped=tuple(skipped),
            link=network.head.link,
        )
        for network, own in zip(networks, logits, strict=True)
    ]


def _answers(networks: Sequence[Network], shared: int, device: torch.device, batch: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        trunk = networks[0].run_blocks(batch.to(device, non_blocking=True), 0, shared)
        return [network.run_tail(trunk, shared).float().cpu() for network in networks]


def fit_temperature(evaluation: Evaluation) -> float:
    """Find the temperature that makes probabilities honest (Guo et al. 2017, arXiv:1706.04599).

    Returns:
        What to divide the logits by, 0.05 to 20: the one of the least negative log-likelihood.
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log: evaluation.negative_log_likelihood(float(np.exp(log))),
        bounds=tuple(np.log(_TEMPERATURES)),
        method="bounded",
    )
    return float(np.exp(found.x))
