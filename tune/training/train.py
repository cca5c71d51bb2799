"""Train a head and some blocks on activations at a cut."""

import copy
import math
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unfreeze.contract.errors import DivergenceError
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.device.distributed import ALONE, Workers
from unfreeze.tune.device.memory import training_memory
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.features.cache import Deal, Source, pooled_features
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.training.augment import Mixture, flipped, mixed

_HEAD_RATES = {"adamw": 1e-3, "sgd": 1e-2}
_SGD_FACTOR = 10  # SGD wants larger steps than AdamW, which divides gradients by their size
_MOMENTUM = 0.9
_INPUT_SHARE = 0.3
_WARM_UP = 0.1
_CLIP_NORM = 1.0


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one pass over the images gave.

    Args:
        number: from 1.
        loss: the mean over its steps.
        learning_rate: of the last block, at the epoch's end.
        held_out_loss: on the images put aside for early stopping, if any were.
    """

    number: int
    loss: float
    learning_rate: float
    held_out_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """For how long to train, and how fast.

    Args:
        epochs: passes over the images.
        rate: of the last block, at its highest.
        blocks: the numbers of the trained blocks.
        flip: whether images are flipped at random; activations never are.
    """

    epochs: int
    rate: float
    blocks: Collection[int]
    flip: bool = False


@dataclass(kw_only=True)
class Training:
    """A training that can be stopped between epochs and gone on with, to the same weights.

    Args:
        network: on the precision's device; its trained blocks and its head are changed.
        source: the training images' activations at the first trained block.
        schedule: what to train.
        options: how.
        precision: to compute in.
        held_out: images that tell when to stop, with activations at the same cut.
        workers: the processes that share the work.
    """

    network: Network
    source: Source
    schedule: Schedule
    options: TuneOptions
    precision: Precision
    held_out: Source | None = None
    workers: Workers = ALONE
    epochs: list[Epoch] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Prepare optimizer, schedule and chance."""
        self.generator = torch.Generator().manual_seed(self.options.seed)
        self.precision = self.precision.for_training(self.network)
        self.network.train_only(self.schedule.blocks)
        self.parameters = [one for one in self.network.parameters() if one.requires_grad]
        self.optimizer = _optimizer(self.network, self.schedule, self.options)
        self.batch_size = self.options.batch_size_for(len(self.source.labels))
        self.steps = total = self.schedule.epochs * _batches(len(self.source.labels), self.batch_size)
        warm_up = max(1, round(_WARM_UP * total))
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: share(step, warm_up, total))
        self.scaler = self.precision.grad_scaler()
        weights = class_weights(self.source.labels) if self.options.class_weights == "balanced" else None
        self.class_weights = None if weights is None else weights.to(self.precision.device)
        self.best: dict[str, Tensor] | None = None

    def run(self, note: Callable[["Training"], None] = lambda _: None) -> None:
        """Train to the end.

        Args:
            note: called after every epoch.

        Raises:
            DivergenceError: the weights or the loss are no finite numbers any more.
            UnfreezeError: the GPU's memory does not hold a batch's training.
        """
        while len(self.epochs) < self.schedule.epochs and not self._has_stopped():
            with self.precision.kernels(self.steps), training_memory(self.batch_size):
                self._epoch()
            self._check()
            note(self)
        if self.best is not None:
            self.network.load_state_dict(self.best, strict=False)  # the frozen blocks are not in it
        self.network.eval()

    def state(self) -> dict[str, Any]:
        """Give everything that the rest of the training depends on, but the frozen weights and the images."""
        return {
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "network": self.network.trained_state(self.schedule.blocks),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "chance": self.generator.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.epochs[:] = [Epoch(**epoch) for epoch in state["epochs"]]
        self.network.load_state_dict(state["network"], strict=False)
        self.best = state["best"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.generator.set_state(state["chance"])

    def _epoch(self) -> None:
        self.network.train_only(self.schedule.blocks)
        # What is dropped out differs by process and depends on nothing before this epoch.
        torch.manual_seed(self._seed_of_epoch())
        deals = shuffled(len(self.source.labels), self.source.views, self.batch_size, self.generator)
        steps = [self._step(batch, rows) for (rows, _), batch in zip(deals, self.source.batches(deals), strict=True)]
        losses = torch.stack(steps).tolist()  # behind all of them, for each reading waits until a GPU is done
        self.workers.average_statistics(self.network)
        held_out_loss = None if self.held_out is None else self._held_out_loss(self.held_out)
        epoch = Epoch(
            number=len(self.epochs) + 1,
            loss=sum(losses) / len(losses),
            learning_rate=self.scheduler.get_last_lr()[-1],
            held_out_loss=held_out_loss,
        )
        if held_out_loss is not None and held_out_loss < min(self._held_out_losses(), default=math.inf):
            self.best = copy.deepcopy(self.network.trained_state(self.schedule.blocks))
        self.epochs.append(epoch)

    def _seed_of_epoch(self) -> int:
        of = self.options.seed, len(self.epochs), self.workers.rank
        return int(np.random.SeedSequence(of).generate_state(1)[0])

    def _check(self) -> None:
        weights = self.network.trained_state(self.schedule.blocks).values()
        if not (math.isfinite(self.epochs[-1].loss) and all(torch.isfinite(tensor).all() for tensor in weights)):
            raise DivergenceError(
                f"training at --learning-rate {self.schedule.rate:g} has come to numbers that are none in epoch "
                f"{len(self.epochs)}; use a smaller one{self.precision.remedy}"
            )

    def _step(self, batch: Tensor, rows: Tensor) -> Tensor:
        """Take a step on this process's part of a batch, whose images are numbered in `rows`."""
        own = self.workers.own(rows)
        chosen = torch.rand(len(rows), generator=self.generator) < 0.5  # noqa: PLR2004 - half
        labels = self.source.labels[rows[own]].to(self.precision.device, non_blocking=True)
        self.optimizer.zero_grad()
        loss = torch.zeros((), device=self.precision.device)
        if len(batch):
            batch = self.precision.lay_out(batch)
            if self.schedule.flip and batch.dtype == torch.uint8:
                batch = flipped(batch, chosen[own])
            loss = self._loss(mixed(self.network, batch, self.options.mixup, self.generator), labels) / len(rows)
        scaled = self.scaler.scale(loss)
        if len(batch):
            scaled.backward()
        self.workers.sum_gradients(self.parameters)
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, _CLIP_NORM)
        if self._try_step():
            self.scheduler.step()
        return self.workers.sum(loss.detach())

    def _try_step(self) -> bool:
        """Step, and tell whether: where scaled gradients are too large for float16, only the scale is made smaller."""
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.scaler.get_scale() >= before

    def _loss(self, mixture: Mixture, labels: Tensor) -> Tensor:
        with self.precision.autocast():
            logits = self.network.run_tail(mixture.batch, self.source.position).float()
        losses = [
            nn.functional.cross_entropy(
                logits,
                own,
                self.class_weights,
                label_smoothing=self.options.label_smoothing,
                reduction="sum",
            )
            * share
            for own, share in ((labels, mixture.share), (labels[mixture.partners], 1 - mixture.share))
            if share
        ]
        return torch.stack(losses).sum()

    def _held_out_loss(self, held_out: Source) -> float:
        self.network.eval()
        features = pooled_features(self.network, held_out, self.precision, views=1)[:, 0]
        with torch.inference_mode():
            logits = self.network.head.classify(features.to(self.precision.device))
        return nn.functional.cross_entropy(logits.cpu(), held_out.labels).item()

    def _has_stopped(self) -> bool:
        losses = self._held_out_losses()
        return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= self.options.patience

    def _held_out_losses(self) -> list[float]:
        return [epoch.held_out_loss for epoch in self.epochs if epoch.held_out_loss is not None]


def shuffled(count: int, views: int, batch_size: int, generator: torch.Generator) -> list[Deal]:
    """Deal out the images, one random view of each, in batches of nearly the same size: none is too small."""
    rows = torch.randperm(count, generator=generator)
    view = torch.randint(views, (count,), generator=generator)
    parts = _batches(count, batch_size)
    return list(zip(rows.tensor_split(parts), view.tensor_split(parts), strict=True))


def share(step: int, warm_up: int, total: int) -> float:
    """Give the share of the highest learning rate: a linear warm-up, then a cosine decay to nothing."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))


def parameter_groups(network: Network, schedule: Schedule, optimizer: str) -> list[dict[str, Any]]:
    """Give the trained parameters with their learning rates: less toward the input (Howard and Ruder 2018).

    See arXiv:1801.06146. Norms and biases, which are the one-dimensional parameters, are not decayed.
    """
    blocks, factor = len(network.block_names), _SGD_FACTOR if optimizer == "sgd" else 1
    groups = _by_decay(list(network.head.parameters()), _HEAD_RATES[optimizer])
    for index in schedule.blocks:
        rate = factor * schedule.rate * _INPUT_SHARE ** ((blocks - 1 - index) / blocks)
        groups += _by_decay(list(network.block_parameters(index, index + 1)), rate)
    return groups


def _by_decay(parameters: list[nn.Parameter], rate: float) -> list[dict[str, Any]]:
    weights = {"params": [parameter for parameter in parameters if parameter.ndim > 1], "lr": rate}
    others = {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "lr": rate, "weight_decay": 0.0}
    return [group for group in (weights, others) if group["params"]]


def _optimizer(network: Network, schedule: Schedule, options: TuneOptions) -> torch.optim.Optimizer:
    groups = parameter_groups(network, schedule, options.optimizer)
    if options.optimizer == "sgd":
        decay = options.weight_decay / _SGD_FACTOR
        return torch.optim.SGD(groups, momentum=_MOMENTUM, nesterov=True, weight_decay=decay)
    return torch.optim.AdamW(groups, weight_decay=options.weight_decay)


def _batches(count: int, batch_size: int) -> int:
    return max(1, count // batch_size)


def class_weights(labels: Tensor) -> Tensor:
    """Give each class a weight against its frequency, so that the images' mean weight is 1."""
    counts = torch.bincount(labels).float()
    return len(labels) / (len(counts) * counts.clamp(min=1))
