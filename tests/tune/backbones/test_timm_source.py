"""timm's networks by name and from the Hub: preprocessing, image sizes, weights, and what is said offline."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from support.images import write_images

from unfreeze.contract.errors import WeightsError
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import export_model
from unfreeze.tune.artifacts.checkpoint import load_run
from unfreeze.tune.backbones.sources import find_backbone
from unfreeze.tune.backbones.weights import load_pretrained
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

NAME = "test_vit"
HUB = "hf-hub:someone/small-vit"
COMMIT = "a" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, and no network."""
    cache = tmp_path / "hub"
    cache.mkdir()
    for module in ("huggingface_hub.constants", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(cache), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return cache


@pytest.fixture(scope="module")
def vit_state() -> dict[str, torch.Tensor]:
    """Random weights of a small vision transformer with its classifier, for images of 160 by 160."""
    torch.manual_seed(3)
    return timm.create_model(NAME, num_classes=7).state_dict()


def _publish(cache: Path, repository: str, state: dict[str, torch.Tensor], config: dict[str, object]) -> None:
    """Write what a download of a repository leaves in the cache."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(state, snapshot / "model.safetensors")


def _config(**values: object) -> dict[str, object]:
    return {
        "architecture": NAME,
        "num_classes": 7,
        "num_features": 64,
        "pretrained_cfg": {
            "input_size": [3, 160, 160],
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "interpolation": "bilinear",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
            "num_classes": 7,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            **values,
        },
    }


def test_a_repository_on_the_hub_is_read_with_its_own_preprocessing(
    hub: Path, vit_state: dict[str, torch.Tensor]
) -> None:
    """Weights and configuration come from the cache, and the classifier is left out."""
    _publish(hub, "someone/small-vit", vit_state, _config())
    pretrained = load_pretrained(HUB, "default")
    spec = pretrained.spec
    assert (spec.resize, spec.crop, spec.interpolation) == ((160, 160), (160, 160), "bilinear")
    assert (spec.mean, spec.std) == ((0.5,) * 3, (0.25,) * 3)
    assert (pretrained.backbone, pretrained.weights) == (HUB, "default")
    own = pretrained.model.state_dict()
    assert own.keys() == {key for key in vit_state if not key.startswith("head.")}
    assert all(torch.equal(value, vit_state[key]) for key, value in own.items())


def test_a_network_from_the_hub_is_tuned_exported_and_loaded(
    hub: Path, vit_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """The run names the repository and timm's version, and smaller images interpolate the position embeddings."""
    _publish(hub, "someone/small-vit", vit_state, _config())
    data = write_images(tmp_path / "data", 6)
    options = TuneOptions(
        backbone=HUB, device="cpu", precision="fp32", cut="blocks.5", epochs=1, learning_rate=1e-3, image_size=64
    )
    metrics = fine_tune(data, tmp_path / "run", options)
    assert (metrics["backbone"], metrics["cut"]) == (HUB, "blocks.5")
    network, facts = load_run(tmp_path / "run")
    assert network.block_names == ("patch_embed", *(f"blocks.{index}" for index in range(6)))
    assert facts.provenance.versions["timm"] == timm.__version__
    frozen = network.export_state()["blocks.0.attn.qkv.weight"]
    assert torch.equal(frozen, vit_state["blocks.0.attn.qkv.weight"])
    exported = export_model(tmp_path / "run", tmp_path / "models", "vit", ExportOptions(max_batch=8))
    assert exported.manifest.provenance.backbone == HUB
    assert exported.manifest.preprocess.crop == (64, 64)
    assert exported.manifest.proof.largest_difference < 1e-4


def test_a_run_of_torchvision_does_not_import_timm() -> None:
    """Neither the command line nor a network of torchvision pays for it."""
    code = (
        "import sys, unfreeze.tune.run; from unfreeze.tune.backbones.weights import load_pretrained; "
        "import torch; load_pretrained('squeezenet1_1', 'none').network('squeezenet1_1', 2, torch.device('cpu')); "
        "sys.exit('timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("backbone", [f"timm/{NAME}", HUB])
def test_offline_the_message_says_how_to_bring_the_weights(backbone: str, hub: Path) -> None:
    """It names the backbone, the command for a machine with access, and the option that takes the folder."""
    assert not list(hub.iterdir())
    expected = (
        rf"cannot download {backbone} from the Hugging Face Hub, and it is not in the Hub's cache \(.+\)\. "
        r"On a machine with access, run: hf download \S+/\S+ --local-dir FOLDER; .*--weights FOLDER"
    )
    with pytest.raises(WeightsError, match=expected):
        load_pretrained(backbone, "default")


def test_default_weights_are_read_from_the_hubs_cache(hub: Path, vit_state: dict[str, torch.Tensor]) -> None:
    """What timm has downloaded once needs no network later."""
    repository = timm.models.get_pretrained_cfg(NAME).hf_hub_id
    classifier = {"head.weight": torch.zeros(1000, 64), "head.bias": torch.zeros(1000)}
    _publish(hub, repository, vit_state | classifier, _config())
    torch.manual_seed(8)
    drawn = torch.rand(2)
    torch.manual_seed(8)
    pretrained = load_pretrained(f"timm/{NAME}", "default")
    own = pretrained.model.state_dict()
    assert all(torch.equal(value, vit_state[key]) for key, value in own.items())
    assert drawn.shape == (2,)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("timm/resnet19", r"timm has no model 'resnet19'; similar names: .*resnet18"),
        ("timm/resnet18.nonesuch", r"timm \S+ has no weights named 'resnet18\.nonesuch'.*resnet18\.a1_in1k"),
        ("timm/tv_densenet121", r"timm has no model 'tv_densenet121'; it is now called 'densenet121\.tv_in1k'"),
    ],
)
def test_unknown_names_are_refused_with_similar_ones(backbone: str, message: str) -> None:
    """Of networks and of their weights; names that timm has replaced are given in their new form."""
    with pytest.raises(WeightsError, match=message):
        load_pretrained(backbone, "none")


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is the command to install it."""
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(WeightsError, match=r"timm is not installed; install it with: pip install 'unfreeze\[timm\]'"):
        load_pretrained(f"timm/{NAME}", "none")


@pytest.mark.parametrize("side", [64, 96])
def test_position_embeddings_of_a_file_are_interpolated_as_timm_does(
    side: int, vit_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """A file for images of 160 by 160 gives the embeddings that timm's own loading gives for another size."""
    torch.save(vit_state, tmp_path / "weights.pth")
    pretrained = load_pretrained(f"timm/{NAME}", str(tmp_path / "weights.pth"), image_size=side)
    theirs = timm.create_model(NAME, num_classes=7, img_size=side)
    convert = timm.models.vision_transformer.checkpoint_filter_fn
    timm.models.load_checkpoint(theirs, str(tmp_path / "weights.pth"), filter_fn=convert)
    found, expected = pretrained.model.pos_embed, theirs.pos_embed
    assert found.shape[1] != vit_state["pos_embed"].shape[1]
    assert torch.equal(found, expected)


def test_a_network_of_a_fixed_size_says_so() -> None:
    """What timm or the network says is passed on, with the option to change."""
    name = "timm/efficientformer_l1"
    pretrained = load_pretrained(name, "none", image_size=96)
    with pytest.raises(WeightsError, match=r"images of 96 x 96 pixels.*; choose another --image-size"):
        pretrained.network(name, 2, torch.device("cpu"))


def test_registers_and_pooling_are_those_of_timms_head() -> None:
    """A DINOv2 with 14-pixel patches and four register tokens ends with the features that timm's classifier gets."""
    torch.manual_seed(0)
    name = "vit_small_patch14_reg4_dinov2"
    stock = timm.create_model(name, num_classes=0, img_size=28).eval()
    torch.manual_seed(0)
    found = find_backbone(f"timm/{name}")
    model = found.build((28, 28)).eval()
    model.load_state_dict(stock.state_dict())
    images = torch.rand(2, 3, 28, 28)
    activations = images
    blocks = found.structure(model, (28, 28)).blocks
    with torch.inference_mode():
        for block in blocks:
            activations = block.run(model, activations)
        assert torch.equal(activations, stock.forward_head(stock.forward_features(images), pre_logits=True))
    assert blocks[0].output.shape == (1 + 4 + 4, 384)
