"""Sources of backbones: named in front of a slash, and added by registering one."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from support.images import write_images
from torch import Tensor, nn

from unfreeze.contract.errors import WeightsError
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import export_model
from unfreeze.tune.artifacts.checkpoint import load_run
from unfreeze.tune.backbones.blocks import split
from unfreeze.tune.backbones.source import ImageSize, Structure
from unfreeze.tune.backbones.sources import SOURCES, Backbone, find_backbone
from unfreeze.tune.backbones.weights import load_pretrained
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune


class TinyNetwork(nn.Module):
    """Three convolutions and a stock classifier."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.ReLU())
        self.top = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU())
        self.classifier = nn.Linear(2 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images."""
        maps = self.top(self.middle(self.stem(images)))
        return self.classifier(nn.functional.adaptive_avg_pool2d(maps, 1).flatten(1))


class FakeSource:
    """A source with one model, whose name has a slash in it, as names on a model hub have."""

    def license(self, name: str) -> str:
        """State none."""
        assert name == "someone/tiny"
        return ""

    def preprocess(self, name: str) -> PreprocessSpec:
        """Small images."""
        if name != "someone/tiny":
            raise WeightsError(f"fake has no model {name!r}")
        return PreprocessSpec(resize=(40,), crop=(32, 32))

    def build(self, name: str, image_size: ImageSize) -> nn.Module:  # noqa: ARG002 - there is one model, for any size
        """Build the model."""
        return TinyNetwork(4)

    def classifier_prefixes(self, name: str, model: nn.Module) -> tuple[str, ...]:  # noqa: ARG002
        """The linear layer."""
        return ("classifier.",)

    def structure(self, name: str, model: nn.Module, image_size: ImageSize) -> Structure:
        """One block a convolution, by the general rule."""
        return split(model, image_size, classifier_prefixes=self.classifier_prefixes(name, model))

    def load_pretrained_state(self, name: str, image_size: ImageSize) -> dict[str, Tensor]:
        """Weights from a fixed seed, with the keys of the published file."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(77)
            state = self.build(name, image_size).state_dict()
        return {key.replace("middle.", "body."): value for key, value in state.items()}

    def convert_state(self, name: str, state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:  # noqa: ARG002
        """Rename the published file's keys."""
        return {key.replace("body.", "middle."): value for key, value in state.items()}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the registered source's model."""
    monkeypatch.setitem(SOURCES, "fake", FakeSource())
    return "fake/someone/tiny"


@pytest.mark.parametrize("backbone", ["resnet18", "torchvision/resnet18"])
def test_torchvision_is_the_default_source(backbone: str) -> None:
    """With and without the source's name, it is the same backbone."""
    assert find_backbone(backbone) == Backbone(source="torchvision", name="resnet18")
    assert str(find_backbone(backbone)) == "torchvision/resnet18"


def test_rejects_unknown_sources_and_models(fake: str) -> None:
    """The registered sources are listed; what a source says of an unknown model is passed on."""
    with pytest.raises(WeightsError, match=r"unknown source 'tmi' in --backbone tmi/resnet18; .*, or fake/NAME$"):
        find_backbone("tmi/resnet18")
    with pytest.raises(WeightsError, match="fake has no model 'someone/huge'"):
        load_pretrained(fake.replace("tiny", "huge"), "none")


def test_a_registered_source_is_tuned_exported_and_recorded(fake: str, tmp_path: Path) -> None:
    """Its blocks are cut and trained, its pretrained weights and preprocessing used, and the run names the source."""
    data = write_images(tmp_path / "data", 6)
    options = TuneOptions(backbone=fake, device="cpu", precision="fp32", cut="top", epochs=1, learning_rate=1e-3)
    metrics = fine_tune(data, tmp_path / "run", options)
    assert (metrics["backbone"], metrics["weights"], metrics["cut"]) == (fake, "default", "top")
    network, facts = load_run(tmp_path / "run")
    assert network.block_names == ("stem", "middle", "top")
    assert facts.provenance.backbone == fake
    assert facts.preprocess.crop == (32, 32)
    published = FakeSource().load_pretrained_state("someone/tiny", (32, 32))
    frozen = network.export_state()
    assert torch.equal(frozen["middle.0.weight"], published["body.0.weight"])
    assert not torch.equal(frozen["top.0.weight"], published["top.0.weight"])
    exported = export_model(tmp_path / "run", tmp_path / "models", "tiny", ExportOptions(max_batch=8))
    assert exported.manifest.provenance.backbone == fake
    assert exported.manifest.proof.largest_difference < 1e-4


def test_the_stock_classifier_follows_the_blocks(fake: str) -> None:
    """A source states how its model splits; the network runs the same modules."""
    pretrained = load_pretrained(fake, "default")
    network = pretrained.network(fake, 3, torch.device("cpu"))
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
    with torch.inference_mode():
        expected = network.normalize(pixels)
        for name in ("stem", "middle", "top"):
            expected = pretrained.model.get_submodule(name)(expected)
        assert torch.equal(network.run_blocks(pixels, 0, 3), expected)
    assert pretrained.backbone == fake
