"""Train the head and some blocks on the activations at a cut."""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unfreeze.contract.errors import DivergenceError
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.device.distributed import SINGLE_WORKER, Workers
from unfreeze.tune.device.memory import training_memory
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.distillation.lesson import LabelLoss, Lesson
from unfreeze.tune.features.activations import ActivationSource, BatchIndices
from unfreeze.tune.features.cache import pooled_features
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.training.augment import MixedBatch, flip_selected, mixup, rotate_quarters
from unfreeze.tune.training.optimization import (
    Schedule,
    batches_per_epoch,
    class_weights,
    make_optimizer,
    shuffled_batches,
    warmup_cosine,
)

_WARM_UP = 0.1  # share of the steps
_MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The record of one pass over the images.

    Args:
        number: number of the epoch, from 1.
        loss: mean training loss of its steps.
        learning_rate: of the last block, at the end of the epoch.
        held_out_loss: loss on the images held out for early stopping, if any.
    """

    number: int
    loss: float
    learning_rate: float
    held_out_loss: float | None = None


@dataclass(kw_only=True)
class Training:
    """Training that can be interrupted between epochs and resumed, with the same result.

    Args:
        network: on the precision's device; its trained blocks and its head are changed.
        source: the training images' activations at the first trained block.
        schedule: epochs, learning rate and trained blocks.
        options: options of the run.
        precision: device and numeric type to compute in.
        held_out: images for early stopping, with activations at the same cut.
        workers: the processes that train together.
        lesson: a teacher's answers for the images of `source`; None without a teacher.
    """

    network: Network
    source: ActivationSource
    schedule: Schedule
    options: TuneOptions
    precision: Precision
    held_out: ActivationSource | None = None
    workers: Workers = SINGLE_WORKER
    lesson: Lesson | None = None
    epochs: list[Epoch] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Create the optimizer, the learning rate scheduler, the gradient scaler and the random number generator."""
        self.generator = torch.Generator().manual_seed(self.options.seed)
        self.precision = self.precision.for_training(self.network)
        if self.schedule.adapts:
            self.network.adapt(self.schedule.blocks, self.options.lora_rank, self.options.seed)
        self._train_only()
        self.parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(self.network, self.schedule, self.options)
        self.batch_size = self.options.batch_size_for(len(self.source.labels))
        self.steps = self.schedule.epochs * batches_per_epoch(len(self.source.labels), self.batch_size)
        warm_up = max(1, round(_WARM_UP * self.steps))
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: warmup_cosine(step, warm_up, self.steps)
        )
        self.scaler = self.precision.grad_scaler()
        known = self.source.labels[self.source.labels >= 0]  # images for a lesson alone have no label
        weights = class_weights(known) if self.options.class_weights == "balanced" else None
        self.label_loss = LabelLoss(
            class_weights=None if weights is None else weights.to(self.precision.device),
            smoothing=self.options.label_smoothing,
        )
        self.best: dict[str, Tensor] | None = None

    def run(self, after_epoch: Callable[["Training"], None] = lambda _: None) -> None:
        """Train the remaining epochs, then merge adapters and put the network in eval mode.

        Args:
            after_epoch: called after every epoch.

        Raises:
            DivergenceError: the weights or the loss are NaN or infinite.
            UnfreezeError: the GPU has too little memory for a training batch.
        """
        while len(self.epochs) < self.schedule.epochs and not self._has_stopped():
            with self.precision.kernels(self.steps), training_memory(self.batch_size):
                self._epoch()
            self._check()
            after_epoch(self)
        if self.best is not None:
            self.network.load_state_dict(self.best, strict=False)  # without the frozen blocks
        self.network.merge_adapters()
        self.network.eval()

    @property
    def trained_parameters(self) -> int:
        """Number of trained parameters, adapters instead of the weights that they adapt."""
        return sum(parameter.numel() for parameter in self.parameters)

    def state(self) -> dict[str, Any]:
        """Return all that the remaining epochs depend on, except for the frozen weights and the images."""
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
        """Restore what `state` returned."""
        self.epochs[:] = [Epoch(**epoch) for epoch in state["epochs"]]
        self.network.load_state_dict(state["network"], strict=False)
        self.best = state["best"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.generator.set_state(state["chance"])

    def _epoch(self) -> None:
        self._train_only()
        # Dropout differs between processes and must not depend on earlier epochs, which a resumed run does not repeat.
        torch.manual_seed(self._epoch_seed())
        indices = shuffled_batches(len(self.source.labels), self.source.views, self.batch_size, self.generator)
        batches = zip(indices, self.source.batches(indices), strict=True)
        steps = [self._step(batch, chosen) for chosen, batch in batches]
        losses = torch.stack(steps).tolist()  # read once per epoch, because each read waits for the GPU
        self.workers.average_statistics(self.network)
        held_out_loss = None if self.held_out is None else self._held_out_loss(self.held_out)
        epoch = Epoch(
            number=len(self.epochs) + 1,
            loss=sum(losses) / len(losses),
            learning_rate=float(self.scheduler.get_last_lr()[-1]),
            held_out_loss=held_out_loss,
        )
        if held_out_loss is not None and held_out_loss < min(self._held_out_losses(), default=math.inf):
            self.best = copy.deepcopy(self.network.trained_state(self.schedule.blocks))
        self.epochs.append(epoch)

    def _train_only(self) -> None:
        """Put the trained blocks in training mode, except for their batch statistics if there are frozen blocks.

        The head starts from a probe of features that were computed with the statistics of pretraining. Those of a batch
        of 16 differ so much that training would first have to learn the probe again.
        """
        self.network.train_only(self.schedule.blocks)
        if self.source.position:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - torch has no public name
                    module.eval()

    def _epoch_seed(self) -> int:
        entropy = self.options.seed, len(self.epochs), self.workers.rank
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])

    def _check(self) -> None:
        weights = self.network.trained_state(self.schedule.blocks).values()
        if not (math.isfinite(self.epochs[-1].loss) and all(torch.isfinite(tensor).all() for tensor in weights)):
            raise DivergenceError(
                f"training diverged to NaN or infinity in epoch {len(self.epochs)} at --learning-rate "
                f"{self.schedule.learning_rate:g}; use a smaller one{self.precision.overflow_advice}"
            )

    def _step(self, batch: Tensor, chosen: BatchIndices) -> Tensor:
        """Take an optimizer step on this process's images of a batch; `chosen` has all of its images and views."""
        rows, views = chosen
        own = self.workers.owns(rows)
        flipped = torch.rand(len(rows), generator=self.generator) < 0.5  # noqa: PLR2004 - half
        turns = torch.randint(4, (len(rows),), generator=self.generator) if self.schedule.quarter_turns else None
        labels = self.source.labels[rows[own]].to(self.precision.device, non_blocking=True)
        answers = None if self.lesson is None else self.lesson.at(rows, views).to(labels.device, non_blocking=True)
        self.optimizer.zero_grad()
        loss = torch.zeros((), device=self.precision.device)
        if len(batch):
            batch = self.precision.to_device(batch)
            if self.schedule.flip and batch.dtype == torch.uint8:
                batch = flip_selected(batch, flipped[own])
            if turns is not None and batch.dtype == torch.uint8:
                batch = rotate_quarters(batch, turns[own])
            mixed = mixup(self.network, batch, self.options.mixup, self.generator)
            loss = self._loss(mixed, labels, answers) / len(rows)
        scaled = self.scaler.scale(loss)
        if len(batch):
            scaled.backward()
        self.workers.sum_gradients(self.parameters)
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, _MAX_GRADIENT_NORM)
        if self._try_step():
            self.scheduler.step()
        return self.workers.sum(loss.detach())

    def _try_step(self) -> bool:
        """Take a step unless scaled gradients overflow, which only lowers the scale; return whether it was taken."""
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.scaler.get_scale() >= scale

    def _loss(self, mixed: MixedBatch, labels: Tensor, answers: Tensor | None = None) -> Tensor:
        """Sum the loss over the batch: for each sample's targets and its partner's, weighted by their shares."""
        with self.precision.autocast():
            logits = self.network.run_tail(mixed.batch, self.source.position).float()
        losses = [
            self._total(logits, labels[order], None if answers is None else answers[order]) * share
            for order, share in ((slice(None), mixed.share), (mixed.partners, 1 - mixed.share))
            if share
        ]
        return torch.stack(losses).sum()

    def _total(self, logits: Tensor, labels: Tensor, answers: Tensor | None) -> Tensor:
        if self.lesson is None or answers is None:
            return self.label_loss.total(logits, labels)
        return self.label_loss.total_taught(logits, labels, self.lesson, answers)

    def _held_out_loss(self, held_out: ActivationSource) -> float:
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
