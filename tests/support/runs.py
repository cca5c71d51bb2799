"""A run's folder with random weights and real images, without training."""

from pathlib import Path

import torch
import torchvision

from support.images import COLORS, write_images
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.contract.model.manifest import Provenance
from unfreeze.tune.artifacts.checkpoint import LabeledFile, RunFacts, save_run
from unfreeze.tune.backbones.network import Network, pool

SPEC = PreprocessSpec(resize=(40,), crop=(32, 32))


def write_run(
    folder: Path,
    *,
    backbone: str = "squeezenet1_1",
    per_class: int = 6,
    seed: int = 0,
    temperature: float = 1.5,
    **facts: object,
) -> Path:
    """Write images and a run with random weights, whose logits differ between images.

    Args:
        folder: gets `images` and `run`.
        backbone: name of torchvision's builder.
        per_class: validation images of each color.
        seed: of the weights.
        temperature: divides the logits.
        facts: further fields of `RunFacts`.
    """
    data, run = folder / "images", folder / "run"
    write_images(data / "val", per_class)
    write_images(data / "train", 2, first_seed=500)
    torch.manual_seed(seed)
    network = Network(backbone, torchvision.models.get_model(backbone), SPEC, len(COLORS))
    _spread(network.eval())
    labels = tuple(COLORS)
    described = RunFacts(
        labels=labels,
        preprocess=SPEC,
        temperature=temperature,
        provenance=Provenance(
            backbone=backbone, weights="none", weights_sha256="", cut="head", seed=seed, images=0, versions={}
        ),
        metrics={"val_accuracy": 1 / 3},
        data=str(data),
        val=_files(data, "val", labels),
        calibration=_files(data, "train", labels),
        **facts,
    )
    run.mkdir()
    save_run(run, network, described, {})
    return run


def _files(data: Path, split: str, labels: tuple[str, ...]) -> tuple[LabeledFile, ...]:
    files = sorted(path.relative_to(data) for path in (data / split).rglob("*.jpg"))
    return tuple(LabeledFile(path=file.as_posix(), label=labels.index(file.parts[1])) for file in files)


def _spread(network: Network) -> None:
    """Standardize the head's features, so that probabilities differ between images."""
    noise = torch.randint(0, 256, (64, *SPEC.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    colors = torch.tensor(list(COLORS.values()), dtype=torch.uint8).repeat(22, 1)[:64, None, None, :]
    with torch.inference_mode():
        features = pool(network.run_blocks(noise // 4 + colors // 2, 0, len(network.block_names)))
    network.head.mean.copy_(features.mean(0))
    deviation = features.std(0)  # nearly constant features must not be amplified
    network.head.inverse_std.copy_(1 / (deviation + 0.1 * deviation.max()))
    torch.nn.init.normal_(network.head.linear.weight, std=0.1)
