"""Train a head, and the blocks behind a cut, on cached activations."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tune.cache import Cached
from tune.network import Network
from tune.options import GENTLE_RATE, TuneOptions
from tune.precision import Precision
from tune.probe import Probe

_BLOCK_SHARE = 0.1
_INPUT_SHARE = 0.3
_WARM_UP = 0.1
_HEAD_EPOCHS = 6
_CLIP_NORM = 1.0


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one pass over the pictures gave.

    Args:
        stage: "head" or "blocks".
        number: from 1.
        loss: the mean over its steps.
    """

    stage: str
    number: int
    loss: float


Report = Callable[[Epoch], None]


def train_network(
    network: Network,
    cached: Cached,
    features: Tensor,
    probe: Probe,
    options: TuneOptions,
    precision: Precision,
    report: Report,
) -> None:
    """Train in two stages: the head alone from the probe's solution, then the blocks behind the cut with it.

    Linear probing before fine-tuning keeps the pretrained features from being distorted by a random head's gradients
    (Kumar et al. 2022, arXiv:2202.10054).

    Args:
        network: on the precision's device; its blocks behind `cached.position` and its head are changed.
        cached: the training pictures' activations at the cut.
        features: the frozen network's for the same pictures and views, float32 [N, V, F].
        probe: fitted on them.
        options: epochs, learning rate, seed.
        precision: to compute in.
        report: called after every epoch.
    """
    generator = torch.Generator().manual_seed(options.seed)
    torch.manual_seed(options.seed)
    probe.put_into(network.head)
    precision = precision.for_training(network)
    _train_head(network, features, cached.labels, options, precision, report, generator)
    if cached.position < len(network.block_names):
        _train_blocks(network, cached, options, precision, report, generator)
    network.eval()


def _train_head(
    network: Network,
    features: Tensor,
    labels: Tensor,
    options: TuneOptions,
    precision: Precision,
    report: Report,
    generator: torch.Generator,
) -> None:
    features, labels = features.to(precision.device), labels.to(precision.device)
    network.train_from(len(network.block_names))
    gentle = replace(options, learning_rate=min(GENTLE_RATE, options.head_rate))
    steps = _Steps(network, network.position("head"), gentle, _HEAD_EPOCHS * _batches(len(labels), options), precision)
    for number in range(1, _HEAD_EPOCHS + 1):
        losses = [
            steps.take(lambda rows=rows, view=view: network.head.classify(features[rows, view]), labels[rows])
            for rows, view in _shuffled(len(labels), features.shape[1], options.batch_size, generator)
        ]
        report(Epoch(stage="head", number=number, loss=sum(losses) / len(losses)))


def _train_blocks(
    network: Network,
    cached: Cached,
    options: TuneOptions,
    precision: Precision,
    report: Report,
    generator: torch.Generator,
) -> None:
    network.train_from(cached.position)
    steps = _Steps(network, cached.position, options, options.epochs * _batches(len(cached.labels), options), precision)
    for number in range(1, options.epochs + 1):
        losses = []
        for rows, view in _shuffled(len(cached.labels), cached.activations.shape[1], options.batch_size, generator):
            batch = precision.lay_out(network.flipped(cached.activations[rows, view], generator))
            labels = cached.labels[rows].to(precision.device)
            losses.append(steps.take(lambda batch=batch: network.run_tail(batch, cached.position), labels))
        report(Epoch(stage="blocks", number=number, loss=sum(losses) / len(losses)))


def _batches(count: int, options: TuneOptions) -> int:
    return max(1, count // options.batch_size)


def _shuffled(count: int, views: int, batch_size: int, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Deal out the pictures, one random view of each, in batches of nearly the same size: none is too small."""
    rows = torch.randperm(count, generator=generator)
    view = torch.randint(views, (count,), generator=generator)
    parts = max(1, count // batch_size)
    return list(zip(rows.tensor_split(parts), view.tensor_split(parts), strict=True))


class _Steps:
    """AdamW with a linear warm-up and a cosine decay, smaller rates toward the input, clipped gradients."""

    def __init__(self, network: Network, position: int, options: TuneOptions, total: int, precision: Precision) -> None:
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        groups = list(_parameter_groups(network, position, options))
        self.optimiser = torch.optim.AdamW(groups, weight_decay=options.weight_decay)
        warm_up = max(1, round(_WARM_UP * total))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: _rate(step, warm_up, total))
        self.loss = nn.CrossEntropyLoss(label_smoothing=options.label_smoothing)
        self.precision = precision
        self.scaler = precision.grad_scaler()

    def take(self, logits: Callable[[], Tensor], labels: Tensor) -> float:
        self.optimiser.zero_grad()
        with self.precision.autocast():
            computed = logits()
        loss = self.loss(computed.float(), labels)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.parameters, _CLIP_NORM)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.step()
        return loss.item()


def _parameter_groups(network: Network, position: int, options: TuneOptions) -> list[dict[str, object]]:
    groups = _by_decay(list(network.head.parameters()), options.head_rate)
    blocks = len(network.block_names)
    for index in range(position, blocks):
        rate = options.head_rate * _BLOCK_SHARE * _INPUT_SHARE ** ((blocks - 1 - index) / blocks)
        groups += _by_decay(list(network.block_parameters(index, index + 1)), rate)
    return groups


def _by_decay(parameters: list[nn.Parameter], rate: float) -> list[dict[str, object]]:
    """Norms and biases, which are the one-dimensional parameters, are not decayed."""
    weights = {"params": [parameter for parameter in parameters if parameter.ndim > 1], "lr": rate}
    others = {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "lr": rate, "weight_decay": 0.0}
    return [group for group in (weights, others) if group["params"]]


def _rate(step: int, warm_up: int, total: int) -> float:
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))
