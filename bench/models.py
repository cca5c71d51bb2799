"""A published model with random weights, for benchmarks of speed."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unfreeze.contract.model.manifest import Provenance
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import export_model
from unfreeze.tune.artifacts.checkpoint import LabeledFile, RunFacts, save_run
from unfreeze.tune.backbones.weights import load_pretrained

_LABELS = ("ant", "bee", "wasp")


def publish_random(backbone: str, folder: Path, name: str = "random", image_size: int | None = None) -> Path:
    """Export a network with random weights.

    Args:
        backbone: torchvision's name of the network.
        folder: receives `models`, the repository; an existing one is reused.
        name: name of the model.
        image_size: side of its input in pixels; None for the usual one.

    Returns:
        The repository.
    """
    repository = folder / "models"
    if ModelRepository(repository).versions(name):
        return repository
    torch.manual_seed(0)
    pretrained = load_pretrained(backbone, "none", image_size)
    network = pretrained.network(backbone, len(_LABELS), torch.device("cpu")).eval()
    facts = RunFacts(
        labels=_LABELS,
        preprocess=pretrained.spec,
        temperature=1.0,
        provenance=Provenance(
            backbone=backbone, weights="none", weights_sha256="", cut="head", seed=0, images=0, versions={}
        ),
        metrics={},
        data=str(folder),
        val=tuple(LabeledFile(path=f"{number}.png", label=number) for number in range(len(_LABELS))),
    )
    (folder / "run").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for file in facts.val:
        Image.fromarray(rng.integers(0, 256, (300, 400, 3), np.uint8)).save(folder / file.path)
    save_run(folder / "run", network, facts, {})
    export_model(folder / "run", repository, name, ExportOptions(max_batch=32))
    return repository
