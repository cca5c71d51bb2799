"""Compare given weights with random ones: `python -m bench.pretrain.transfer --train DIR --valid DIR`.

Measures two accuracies for each: of a logistic regression on frozen features, and of a short fine-tuning of the last
blocks. Expects one folder of images per class.
"""

import argparse
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

from bench.pretrain.augment import normalize
from bench.pretrain.backbone import build_network
from unfreeze.contract.images.preprocess import PreprocessSpec, prepare

BATCH = 64
MOMENTUM = 0.1
Images = tuple[np.ndarray, np.ndarray]


def read_folder(folder: Path, side_px: int) -> Images:
    """Read images from one folder per class.

    Args:
        folder: Folder that contains the folders of the classes.
        side_px: Side to resize and crop to, in pixels.

    Returns:
        Images, [n, side, side, 3], uint8, and their classes, [n], int64.
    """
    spec = PreprocessSpec(resize=(side_px,), crop=(side_px, side_px))
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    paths = [(path, label) for label, name in enumerate(names) for path in sorted((folder / name).iterdir())]
    images = np.stack([prepare(path.read_bytes(), spec) for path, _ in paths])
    return images, np.array([label for _, label in paths])


def load_network(weights: Path | None, classes: int, seed: int) -> torch.nn.Sequential:
    """Build the network with features from a file, or with random weights.

    Args:
        weights: File written by `backbone.save_features`, or None.
        classes: Number of classes.
        seed: Random seed of the random weights.

    Returns:
        The network.
    """
    network = build_network(classes, seed)
    for norm in (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.momentum = MOMENTUM
    if weights:
        state = {name.removeprefix("features."): value.float() for name, value in load_file(weights).items()}
        network[0].load_state_dict(state)
    return network


def estimate_statistics(network: torch.nn.Sequential, images: np.ndarray) -> None:
    """Estimate the BatchNorm statistics of a network with random weights, for a fair comparison.

    Args:
        network: The network; modified in place.
        images: Images of all classes, [n, h, w, 3], uint8.
    """
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    with torch.inference_mode():
        for start in range(10):
            network(normalize(images[start::10]))
    for norm in norms:
        norm.momentum = MOMENTUM


def probe(network: torch.nn.Sequential, train: Images, valid: Images) -> float:
    """Fit a logistic regression on pooled, frozen features of the last block.

    Args:
        network: The network.
        train: Training images and classes.
        valid: Validation images and classes.

    Returns:
        The accuracy on `valid`, in [0, 1]; the best of three regularization strengths.
    """
    train_features, valid_features = (_embed(network[:3].eval(), images) for images, _ in (train, valid))
    fits = (LogisticRegression(C=strength, max_iter=2000) for strength in (0.003, 0.03, 0.3))
    return max(
        make_pipeline(StandardScaler(), fit).fit(train_features, train[1]).score(valid_features, valid[1])
        for fit in fits
    )


def finetune(network: torch.nn.Sequential, train: Images, valid: Images, blocks: int, epochs: int) -> float:
    """Train the last blocks and the head with AdamW on images that are flipped and rotated by quarter turns.

    Args:
        network: The network; modified in place.
        train: Training images and classes.
        valid: Validation images and classes.
        blocks: Number of last blocks to train; the others stay frozen, in eval mode.
        epochs: Training epochs.

    Returns:
        The accuracy on `valid` after the last epoch, in [0, 1].
    """
    trunk, tail = network[0][:-blocks].eval(), torch.nn.Sequential(*network[0][-blocks:], *network[1:])
    activations = [_embed(trunk, _turn(train[0], view)) for view in range(8)]
    optimizer = torch.optim.AdamW(tail.parameters(), weight_decay=0.05)
    steps, labels, rng = epochs * (len(train[1]) // BATCH), torch.from_numpy(train[1]), np.random.default_rng(0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.2)
    tail.train()
    for _ in range(steps):
        picks, views = rng.choice(len(labels), BATCH, replace=False), rng.integers(8, size=BATCH)
        batch = torch.from_numpy(np.stack([activations[view][at] for at, view in zip(picks, views, strict=True)]))
        loss = functional.cross_entropy(tail(batch), labels[picks], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    predictions = _embed(network.eval(), valid[0]).argmax(1)
    return float((predictions == valid[1]).mean())


def main() -> None:
    """Print the accuracies as JSON lines."""
    reader = argparse.ArgumentParser(prog="python -m bench.pretrain.transfer", description=__doc__)
    reader.add_argument("--train", type=Path, required=True, help="folder that contains a folder per class")
    reader.add_argument("--valid", type=Path, required=True, help="folder that contains a folder per class")
    builtin = Path(str(files("unfreeze.tune"))) / "builtin" / "mobilenet_v3_small.safetensors"
    reader.add_argument("--weights", type=Path, default=builtin, help="default: the built-in weights")
    reader.add_argument("--size", type=int, default=160, help="side of the input in pixels (default: 160)")
    reader.add_argument("--blocks", type=int, default=8, help="number of last blocks to train (default: 8)")
    reader.add_argument("--epochs", type=int, default=40, help="training epochs (default: 40)")
    options = reader.parse_args()
    train, valid = (read_folder(folder, options.size) for folder in (options.train, options.valid))
    for weights in (options.weights, None):
        network = load_network(weights, int(train[1].max()) + 1, 0)
        if not weights:
            estimate_statistics(network, train[0])
        figures = {"weights": str(weights), "size_px": options.size, "probe": probe(network, train, valid)}
        figures["finetuned"] = finetune(network, train, valid, options.blocks, options.epochs)
        Console().print_json(json.dumps({**figures, "blocks": options.blocks, "epochs": options.epochs}), indent=None)


def _turn(images: np.ndarray, view: int) -> np.ndarray:
    turned = np.rot90(images, view % 4, (1, 2))
    return np.ascontiguousarray(turned[:, :, ::-1] if view >= 4 else turned)  # noqa: PLR2004


def _embed(module: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return np.concatenate([module(normalize(images[at : at + 128])) for at in range(0, len(images), 128)])


if __name__ == "__main__":
    main()
