"""Classify labeled images with a network in full precision."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

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
from unfreeze.tune.data.views import Views
from unfreeze.tune.device.memory import halve_on_oom
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.features.collect import FrozenPass
from unfreeze.tune.features.columns import Columns
from unfreeze.tune.features.stored import NOTHING_STORED, StoredRows

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
        features: pooled after the last block, float32 [M, F], of M of the images; of the last network, where requested.
        featured: numbers of these images, int64 [M].
    """

    logits: Tensor
    labels: Tensor
    images: tuple[LabeledImage, ...]
    skipped: tuple[Skipped, ...]
    link: str = SOFTMAX
    features: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    featured: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

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


def evaluate_together(  # noqa: PLR0913 - one pass computes several results
    networks: Sequence[Network],
    shared: int,
    images: Sequence[LabeledImage],
    spec: PreprocessSpec,
    device: torch.device,
    advance: Callable[[int], None] = lambda _: None,
    stored: StoredRows = NOTHING_STORED,
    *,
    featured: Sequence[int] | np.ndarray = (),
) -> list[Evaluation]:
    """Evaluate several networks whose first `shared` blocks are identical; those blocks run once per image.

    Args:
        networks: on the device.
        shared: number of identical blocks.
        images: those that cannot be decoded are left out.
        spec: how they are prepared.
        device: the device to compute on.
        advance: called with the number of images since the last call.
        stored: results of the shared blocks in earlier runs, in full precision.
        featured: numbers of the images whose features are returned with the last evaluation.

    Raises:
        DataError: no image can be decoded.
    """
    for network in networks:
        network.eval()
    precision = full_precision(device)
    run = FrozenPass(
        network=networks[0],
        precision=precision,
        images=images,
        views=Views(spec=spec),
        stored=stored,
        batch=evaluation_batch(device),
    )
    classify = _Tails(networks=networks, shared=shared, run=run, featured=featured)
    skipped = run.collect(classify.columns, classify.receive, advance)
    left_out = {item.path for item in skipped}
    kept = [number for number, image in enumerate(images) if image.path not in left_out]
    if not kept:
        raise DataError(
            f"none of the {len(images)} images can be decoded; the first one: {skipped[0].path}: {skipped[0].reason}"
        )
    evaluated = tuple(images[number] for number in kept)
    evaluations = [
        Evaluation(
            logits=logits[kept], labels=labels_of(evaluated), images=evaluated, skipped=skipped, link=network.head.link
        )
        for network, logits in zip(networks, classify.logits, strict=True)
    ]
    places = classify.places[kept]
    with_features = replace(
        evaluations[-1], features=classify.features[places[places >= 0]], featured=np.flatnonzero(places >= 0)
    )
    return [*evaluations[:-1], with_features]


def full_precision(device: torch.device) -> Precision:
    """Return the precision of evaluation."""
    return Precision(device=device, dtype=torch.float32)


def evaluation_batch(device: torch.device) -> int:
    """Return the number of images that are evaluated at a time."""
    return _CPU_BATCH if device.type == "cpu" else _CUDA_BATCH


class _Tails:
    """The blocks after the shared ones, and the heads, run on activations as they are received.

    Args:
        networks: the networks.
        shared: number of blocks that computed the activations.
        run: the pass that delivers them.
        featured: numbers of the images whose features are kept.

    Attributes:
        columns: what the pass delivers: activations, or pooled features if all blocks are shared.
        logits: of each network, float32 [N, C].
        places: of each image in `features`, int64 [N]; -1 for images that are not in it.
        features: of the last network, float32 [M, F].
    """

    def __init__(
        self, networks: Sequence[Network], shared: int, run: FrozenPass, featured: Sequence[int] | np.ndarray
    ) -> None:
        self._networks, self._shared, self._run = networks, shared, run
        ends = shared == len(networks[0].block_names)
        self.columns = Columns(features=True) if ends else Columns(position=shared, dtype=torch.float32)
        self.logits = [torch.zeros(len(run.images), network.classes) for network in networks]
        self.places = torch.full((len(run.images),), -1)
        self.places[torch.as_tensor(featured, dtype=torch.int64)] = torch.arange(len(featured))
        self.features = torch.zeros(len(featured), networks[-1].head.linear.in_features)

    def receive(self, _: str, rows: Tensor, values: Tensor) -> None:
        """Classify images by their activations, or by their features after the last block.

        Every batch has the same size, the last one is filled up, so that the logits of an image do not depend on
        which other images are stored.
        """
        batch = self._run.batch
        for numbers, part in zip(rows.split(batch), values.split(batch), strict=True):
            parts = halve_on_oom(self._classify, _filled(part, batch, self._run.precision.device))
            computed = [torch.cat(of_network) for of_network in zip(*parts, strict=True)]
            for logits, of_network in zip(self.logits, computed[:-1], strict=True):
                logits[numbers] = of_network[: len(numbers)]
            places = self.places[numbers]
            self.features[places[places >= 0]] = computed[-1][: len(numbers)][places >= 0]

    def _classify(self, inputs: Tensor) -> list[Tensor]:
        """Return the logits of each network, [n, C], and the features of the last one, [n, F]."""
        last = len(self._networks[0].block_names)
        with torch.inference_mode():
            pooled = [
                inputs if self.columns.features else network.head.pool(network.run_blocks(inputs, self._shared, last))
                for network in self._networks
            ]
            logits = [network.head.classify(features) for network, features in zip(self._networks, pooled, strict=True)]
            return [values.float().cpu() for values in (*logits, pooled[-1])]


def _filled(rows: Tensor, count: int, device: torch.device) -> Tensor:
    """Copy rows to a device and repeat the last one; always in one memory format, because others round otherwise."""
    is_map = rows.ndim == 4 and rows.is_floating_point()  # noqa: PLR2004 - images are [n, H, W, 3]
    memory_format = torch.channels_last if is_map else torch.contiguous_format
    filled = torch.empty((count, *rows.shape[1:]), dtype=rows.dtype, device=device, memory_format=memory_format)
    filled[: len(rows)] = rows
    filled[len(rows) :] = rows[-1:]
    return filled


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
