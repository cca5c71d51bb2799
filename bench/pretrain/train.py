"""Train on the drawn classes; every few hundred steps, save a checkpoint and the averaged features."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from bench.pretrain.augment import augment, normalize
from bench.pretrain.backbone import build_network, save_features
from bench.pretrain.catalog import CLASSES, draw_image, draw_labels
from bench.pretrain.checkpoint import Run, load_run, save_run, start_run
from bench.pretrain.pool import Pool, PoolPlan

HELD_OUT_SHARD = 10**9
SMOOTHING = 0.1
WARM_UP = 0.04
COOL_DOWN = 0.4
LONGEST_STEP_S = 10.0  # a longer step was suspended; the excess does not count as training time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of a run, which ends after `steps`, or, if that is 0, after `minutes` of training.

    `sizes_px` lists pairs (fraction of the run, side of the training crops in pixels from there on).
    """

    pool: PoolPlan
    work: Path
    out: Path
    seed: int = 0
    steps: int = 0
    minutes: float = 55.0
    batch: int = 128
    learning_rate: float = 3e-3
    sizes_px: tuple[tuple[float, int], ...] = ((0.0, 96), (0.62, 80), (0.88, 112))
    steps_per_checkpoint: int = 500
    held_out: int = 2048


def train(recipe: Recipe, report: Callable[[int, float, float, str], None]) -> None:
    """Train to the end, from the last checkpoint if there is one.

    Args:
        recipe: Settings of the run.
        report: Called after each step with the step, the completed fraction in [0, 1], the loss, and a message or "".
    """
    run, path = start_run(len(CLASSES), recipe.seed), recipe.work / "run.pt"
    load_run(run, path)
    with Pool(recipe.pool) as pool:
        while (share := _fraction_done(recipe, run)) < 1:
            started, message = time.monotonic(), ""
            loss = _take_step(recipe, run, pool, share)
            run.seconds += min(time.monotonic() - started, LONGEST_STEP_S)
            if run.step % recipe.steps_per_checkpoint == 0:
                message = _save(recipe, run, path)
            report(run.step, share, loss, message)
    report(run.step, 1.0, math.nan, _save(recipe, run, path))


def measure(weights: dict[str, torch.Tensor], seed: int, count: int) -> float:
    """Measure the accuracy on held-out images, drawn from a shard that training never reaches.

    Args:
        weights: State dict of the network.
        seed: Random seed of the run.
        count: Number of images.

    Returns:
        The accuracy, in [0, 1].
    """
    network = build_network(len(CLASSES), seed)
    network.load_state_dict(weights)
    network.eval()
    images, labels = _draw_held_out(seed, count)
    correct = 0
    for start in range(0, count, 256):
        with torch.inference_mode():
            predictions = network(normalize(images[start : start + 256])).argmax(1).numpy()
        correct += int((predictions == labels[start : start + 256]).sum())
    return correct / count


@functools.lru_cache(maxsize=1)
def _draw_held_out(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    labels = draw_labels(seed, HELD_OUT_SHARD, count)
    return np.stack([draw_image(int(label), seed, HELD_OUT_SHARD, at) for at, label in enumerate(labels)]), labels


def _fraction_done(recipe: Recipe, run: Run) -> float:
    return run.step / recipe.steps if recipe.steps else run.seconds / (60 * recipe.minutes)


def _take_step(recipe: Recipe, run: Run, pool: Pool, share: float) -> float:
    size_px = [size for start, size in recipe.sizes_px if start <= share][-1]
    learning_rate = recipe.learning_rate * min(1.0, share / WARM_UP + 0.01, (1 - share) / COOL_DOWN)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate
    drawn, labels = pool.sample(run.step, recipe.batch)
    seed = recipe.seed * 10**8 + run.step
    torch.manual_seed(seed)
    run.network.train()
    logits = run.network(augment(drawn, size_px, seed))
    loss = functional.cross_entropy(logits, torch.from_numpy(labels), label_smoothing=SMOOTHING)
    run.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.network.parameters(), 2.0)
    run.optimizer.step()
    run.step += 1
    run.update_average()
    return loss.item()


def _save(recipe: Recipe, run: Run, path: Path) -> str:
    """Save a checkpoint and the averaged features, and describe their accuracy."""
    save_run(run, path)
    accuracy = measure(run.average, recipe.seed, recipe.held_out)
    notes = {
        "made_by": "python -m bench.pretrain",
        "classes": str(len(CLASSES)),
        "steps": str(run.step),
        "seconds": f"{run.seconds:.0f}",
        "seed": str(recipe.seed),
        "held_out_accuracy": f"{accuracy:.4f}",
    }
    save_features(run.average, recipe.out, notes)
    return f"step {run.step}: {accuracy:.1%} of {recipe.held_out} held-out images, {run.seconds:.0f} s"
