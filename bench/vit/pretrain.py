"""Pretrain the small vision transformer: it learns the built-in network's features of drawn images.

python -m bench.vit.pretrain

From labels alone, a transformer learns next to nothing within minutes; features of another network say more per image.
"""

import time
from pathlib import Path

import cyclopts
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.pretrain.augment import augment
from bench.pretrain.catalog import CLASSES, draw_image, draw_labels
from bench.vit.backbone import SIDE_PX, small_vit
from unfreeze.console import RESULTS
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.backbones.weights import BUILTIN_BACKBONE, load_pretrained

OUT = Path("bench/out/vit")
WEIGHTS = OUT / "small_vit.safetensors"
_SHARD = 1 << 20  # of the images, apart from those of the built-in weights
_BATCH, _LEARNING_RATE, _WARM_UP, _WEIGHT_DECAY = 32, 1e-3, 0.1, 0.05
_MEASURED_BATCHES = 10  # for the features' mean and standard deviation


def main(*, images: int = 4800, epochs: int = 12, seed: int = 0) -> None:
    """Draw images, train on random crops of them, and store the weights in bench/out/vit.

    Args:
        images: number of images.
        epochs: passes over the images.
        seed: random seed.
    """
    started = time.monotonic()
    OUT.mkdir(parents=True, exist_ok=True)
    labels = draw_labels(seed, _SHARD, images)
    pixels = np.stack([draw_image(int(label), seed, _SHARD, number) for number, label in enumerate(labels)])
    RESULTS.print(f"drew {images} images of {len(CLASSES)} classes in {time.monotonic() - started:.0f} s")
    _train(pixels, epochs, seed)
    RESULTS.print(f"{WEIGHTS} after {time.monotonic() - started:.0f} s")


def _train(pixels: np.ndarray, epochs: int, seed: int) -> None:
    """Train from random weights and save the result; print the mean squared error of standardized features."""
    torch.manual_seed(seed)
    teacher = load_pretrained(BUILTIN_BACKBONE, "builtin").network(BUILTIN_BACKBONE, 2, torch.device("cpu"))
    known = torch.cat([_features(teacher, _crops(pixels, at, seed)) for at in range(_MEASURED_BATCHES)])
    mean, deviation = known.mean(0), known.std(0) + 1e-3
    network = nn.Sequential(small_vit(), nn.Linear(small_vit().num_features, known.shape[1]))
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    steps = len(pixels) // _BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, epochs * steps, pct_start=_WARM_UP)
    for epoch in range(epochs):
        losses = []
        for step in range(epoch * steps, (epoch + 1) * steps):
            crops = _crops(pixels, step, seed)
            loss = (network(crops) - (_features(teacher, crops) - mean) / deviation).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        RESULTS.print(f"epoch {epoch + 1}: error {np.mean(losses):.3f}")
    save_file({key: value.contiguous() for key, value in network[0].state_dict().items()}, WEIGHTS)


def _crops(pixels: np.ndarray, step: int, seed: int) -> Tensor:
    rows = np.random.default_rng((seed, step)).choice(len(pixels), _BATCH, replace=False)
    return augment(pixels[rows], SIDE_PX, seed=step)


def _features(teacher: Network, crops: Tensor) -> Tensor:
    with torch.no_grad():
        return teacher.head.pool(teacher.run_blocks(crops, 0, len(teacher.block_names)))


if __name__ == "__main__":
    cyclopts.run(main)
