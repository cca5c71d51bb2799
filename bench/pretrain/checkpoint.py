"""Checkpoints of a training run: written atomically, and loaded without unpickling code."""

import dataclasses
from pathlib import Path

import torch
from torch import nn

from bench.pretrain.backbone import build_network

DECAY = 0.9985
WEIGHT_DECAY = 0.05


@dataclasses.dataclass(kw_only=True)
class Run:
    """Mutable state of a run: the network, the moving average of its weights, the optimizer, steps and seconds."""

    network: nn.Module
    average: dict[str, torch.Tensor]
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0

    def update_average(self) -> None:
        """Update the moving average with the current weights and BatchNorm statistics."""
        decay = min(DECAY, (1 + self.step) / (10 + self.step))
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)


def start_run(classes: int, seed: int) -> Run:
    """Create a run at step 0.

    Args:
        classes: Number of classes.
        seed: Random seed of the initial weights.

    Returns:
        The run.
    """
    network = build_network(classes, seed)
    decayed = [value for value in network.parameters() if value.ndim > 1]
    others = [value for value in network.parameters() if value.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    average = {name: value.clone() for name, value in network.state_dict().items()}
    return Run(network=network, average=average, optimizer=torch.optim.AdamW(groups))


def save_run(run: Run, path: Path) -> None:
    """Write a checkpoint atomically: if the process is killed, the previous checkpoint remains.

    Args:
        run: The run.
        path: The file.
    """
    unfinished = path.with_suffix(".part")
    state = {"network": run.network.state_dict(), "average": run.average, "optimizer": run.optimizer.state_dict()}
    torch.save({**state, "step": run.step, "seconds": run.seconds}, unfinished)
    unfinished.replace(path)


def load_run(run: Run, path: Path) -> None:
    """Load a checkpoint if there is one.

    Args:
        run: A run at step 0; modified in place.
        path: File written by `save_run`.
    """
    if not path.exists():
        return
    state = torch.load(path, weights_only=True)
    run.network.load_state_dict(state["network"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.average, run.step, run.seconds = state["average"], state["step"], state["seconds"]
