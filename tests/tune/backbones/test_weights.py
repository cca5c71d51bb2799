"""Weights to start from: downloaded, built in, from a file, or refused."""

import os
import pickle
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor

from unfreeze.contract.errors import WeightsError
from unfreeze.tune.backbones.torchvision_source import TorchvisionSource
from unfreeze.tune.backbones.weights import load_pretrained

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """Random weights of a squeezenet1_1."""
    torch.manual_seed(3)
    return torchvision.models.squeezenet1_1().state_dict()


@pytest.fixture(scope="module")
def resnet_state() -> State:
    """Random weights of a resnet18."""
    torch.manual_seed(4)
    return torchvision.models.resnet18().state_dict()


def _same(model: torch.nn.Module, state: State, classifier: tuple[str, ...] = ("classifier.", "fc.")) -> bool:
    own = model.state_dict()
    return all(torch.equal(own[key], value) for key, value in state.items() if not key.startswith(classifier))


def _prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def _others(state: State, prefix: str) -> State:
    """Weights of another network of the same architecture."""
    return {f"{prefix}{key}": value + 1 for key, value in state.items()}


@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
def test_reads_state_dicts_as_torch_saves_them(wrap: object, state: State, tmp_path: Path) -> None:
    """Bare or wrapped, with DataParallel's prefix, with or without a classifier."""
    without_classifier = {key: value for key, value in state.items() if not key.startswith("classifier")}
    for number, given in enumerate((state, _prefixed(without_classifier, "module."))):
        file = tmp_path / f"{number}.pth"
        torch.save(wrap(given), file)
        pretrained = load_pretrained("squeezenet1_1", str(file))
        assert _same(pretrained.model, state)
        assert pretrained.weights == file.name
        assert len(pretrained.sha256) == 64


FRAMEWORKS: dict[str, tuple[Callable[[State], object], str]] = {
    "bare": (lambda s: s, ""),
    "DistributedDataParallel": (lambda s: _prefixed(s, "module."), "prefix 'module.' removed from its keys"),
    "torch.compile": (lambda s: _prefixed(s, "_orig_mod."), ""),
    "Lightning": (
        lambda s: {"epoch": 3, "state_dict": _prefixed(s, "model."), "optimizer_states": [{"state": {0: {}}}]},
        "entry 'state_dict', prefix 'model.' removed from its keys",
    ),
    "Lightning, compiled": (
        lambda s: {"state_dict": _prefixed(s, "model._orig_mod.") | {"loss.weight": torch.ones(3)}},
        "entry 'state_dict', prefix 'model.' removed from its keys, 1 other tensor ignored",
    ),
    "SimCLR": (
        lambda s: _prefixed(s, "backbone.") | {"projector.0.bias": torch.ones(2), "projector.2.bias": torch.ones(2)},
        "prefix 'backbone.' removed from its keys, 2 other tensors ignored",
    ),
    "MoCo": (
        lambda s: {
            "arch": "resnet18",
            "state_dict": _prefixed(s, "module.encoder_q.")
            | _others(s, "module.encoder_k.")
            | {"module.encoder_q.fc.2.weight": torch.ones(2, 2), "module.queue": torch.ones(4)},
        },
        "entry 'state_dict', prefix 'module.encoder_q.' removed from its keys, 123 other tensors ignored",
    ),
    "BYOL": (
        lambda s: _others(s, "target_encoder.") | _prefixed(s, "online_encoder."),
        "prefix 'online_encoder.' removed from its keys, 122 other tensors ignored",
    ),
    "DINO": (
        lambda s: {
            "student": _others(s, "module.backbone."),
            "teacher": _prefixed(s, "backbone.") | {"head.mlp.0.weight": torch.ones(2)},
            "args": Namespace(arch="resnet18", lr=0.1),
        },
        "entry 'teacher', prefix 'backbone.' removed from its keys, 1 other tensor ignored",
    ),
    "timm with EMA": (lambda s: {"state_dict": _others(s, ""), "state_dict_ema": s}, "entry 'state_dict_ema'"),
    "torchvision with EMA": (
        lambda s: {"model": _others(s, ""), "model_ema": _prefixed(s, "module.") | {"n_averaged": torch.tensor(7)}},
        "entry 'model_ema', prefix 'module.' removed from its keys, 1 other tensor ignored",
    ),
    "net": (lambda s: {"net": s, "acc": 91.5}, "entry 'net'"),
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_reads_the_checkpoints_of_training_frameworks(framework: str, resnet_state: State, tmp_path: Path) -> None:
    """The entry and the prefix are found, the trained encoder is preferred to a second one, and a line says so."""
    wrap, note = FRAMEWORKS[framework]
    torch.save(wrap(resnet_state), tmp_path / "checkpoint.pth")
    pretrained = load_pretrained("resnet18", str(tmp_path / "checkpoint.pth"))
    assert _same(pretrained.model, resnet_state)
    assert pretrained.note == (f"weights checkpoint.pth: {note}" if note else "")


def test_rejects_two_networks_that_fit_equally(resnet_state: State, tmp_path: Path) -> None:
    """The message names both prefixes and says what to save."""
    torch.save(_prefixed(resnet_state, "left.") | _others(resnet_state, "right."), tmp_path / "two.pth")
    expected = r"ambiguous weights.*prefixes 'left\.', 'right\.' fit; save the weights that you want"
    with pytest.raises(WeightsError, match=expected):
        load_pretrained("resnet18", str(tmp_path / "two.pth"))


def test_rejects_the_weights_of_a_larger_network(tmp_path: Path) -> None:
    """A resnet34's file has all keys of a resnet18, and more in the same modules."""
    torch.save(_prefixed(torchvision.models.resnet34().state_dict(), "module."), tmp_path / "34.pth")
    expected = r"the prefix 'module\.': missing keys: none; unexpected keys: layer1\.2\.bn1\.bias, .*and \d+ more"
    with pytest.raises(WeightsError, match=expected):
        load_pretrained("resnet18", str(tmp_path / "34.pth"))


def test_fills_in_num_batches_tracked(resnet_state: State, tmp_path: Path) -> None:
    """Files from before the counter existed load, as torch loads them."""
    older = {key: value for key, value in resnet_state.items() if not key.endswith("num_batches_tracked")}
    torch.save(older, tmp_path / "older.pth")
    pretrained = load_pretrained("resnet18", str(tmp_path / "older.pth"))
    assert _same(pretrained.model, older)
    assert int(pretrained.model.state_dict()["bn1.num_batches_tracked"]) == 0
    assert pretrained.note == ""


def test_reads_safetensors(state: State, tmp_path: Path) -> None:
    """The same weights as safetensors, in half precision."""
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({key: value.half() for key, value in state.items()}, file)
    pretrained = load_pretrained("squeezenet1_1", str(file))
    assert _same(pretrained.model, {key: value.half().float() for key, value in state.items()})
    assert next(pretrained.model.parameters()).dtype == torch.float32


def test_input_size_and_crop_can_be_changed() -> None:
    """A size keeps the share of the image that is cropped, a share keeps the size, and without both nothing changes."""
    stock = load_pretrained("squeezenet1_1", "none").spec
    assert (stock.resize, stock.crop) == ((256,), (224, 224))
    for size, share, resize, crop in ((112, None, 128, 112), (None, 0.5, 448, 224), (96, 1.0, 96, 96)):
        spec = load_pretrained("squeezenet1_1", "none", size, share).spec
        assert (spec.resize, spec.crop) == ((resize,), (crop, crop))
        assert (spec.mean, spec.interpolation) == (stock.mean, stock.interpolation)


def test_none_gives_random_weights_from_torchs_seed() -> None:
    """The seed decides, and torchvision's preprocessing is used."""
    torch.manual_seed(1)
    first = load_pretrained("resnet18", "none")
    torch.manual_seed(1)
    again = load_pretrained("resnet18", "none")
    other = load_pretrained("resnet18", "none")
    assert _same(first.model, again.model.state_dict())
    assert not _same(first.model, other.model.state_dict())
    assert (first.spec.resize, first.spec.crop, first.weights) == ((256,), (224, 224), "none")
    assert first.backbone == "torchvision/resnet18"


def test_builtin_weights_exist_for_one_backbone() -> None:
    """The weights that come with the package load with their own preprocessing, and fit no other backbone."""
    pretrained = load_pretrained("mobilenet_v3_small", "builtin")
    assert pretrained.spec.crop == (160, 160)
    assert all(torch.isfinite(value.float()).all() for value in pretrained.model.state_dict().values())
    assert pretrained.note == ""
    with pytest.raises(WeightsError, match="builtin exists for mobilenet_v3_small only, got --backbone resnet18"):
        load_pretrained("resnet18", "builtin")


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Offline, `default` names the address that it could not reach and the alternatives."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", offline)  # the network, which is not ours
    with pytest.raises(
        WeightsError, match=r"cannot download .* weights for resnet18 from https://\S+resnet18-\S+: .*no route"
    ) as refused:
        load_pretrained("resnet18", "default")
    assert f"--weights FILE, or copy it into {tmp_path}/hub/checkpoints" in str(refused.value)
    assert "--weights builtin" in str(refused.value)


def _older_densenet(key: str) -> str:
    """`norm1` in a dense layer was `norm.1`."""
    head, layer, rest = key.partition("denselayer")
    for name in ("norm", "conv"):
        for number in "12":
            rest = rest.replace(f"{name}{number}.", f"{name}.{number}.")
    return head + layer + rest


def _older_vit(key: str) -> str:
    """The linear layers of an MLP were called `linear_1` and `linear_2`."""
    return key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2.")


# Builders whose published files differ from their models' keys: renamed keys, or auxiliary classifiers.
PUBLISHED: dict[str, tuple[dict[str, object], Callable[[str], str], tuple[str, ...]]] = {
    "squeezenet1_1": ({}, str, ("classifier.",)),
    "densenet121": ({}, _older_densenet, ("classifier.",)),
    "vit_b_32": ({}, _older_vit, ("heads.",)),
    "googlenet": ({"aux_logits": True, "init_weights": False}, str, ("fc.", "aux")),
    "inception_v3": ({"aux_logits": True, "init_weights": False}, str, ("fc.", "AuxLogits.")),
    "mnasnet0_5": ({}, str, ("classifier.",)),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.exhaustive] if name in ("vit_b_32", "inception_v3") else [])
        for name in PUBLISHED
    ],
)
def test_default_and_a_downloaded_file_are_read_as_torchvision_publishes_them(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Files with the keys of older layouts or with auxiliary heads load from torch's cache, and as --weights FILE."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    options, older, classifier = PUBLISHED[name]
    torch.manual_seed(9)
    expected = torchvision.models.get_model(name, weights=None, **options).state_dict()
    published = expected  # including the layout's version, which MNASNet reads
    if older is not str:
        published = {older(key): value for key, value in expected.items() if not key.endswith("num_batches_tracked")}
        assert not published.keys() <= expected.keys()
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    file = cache / torchvision.models.get_model_weights(name).DEFAULT.url.rpartition("/")[2]
    torch.save(published, file)
    for weights in ("default", str(file)):
        pretrained = load_pretrained(name, weights)
        assert _same(pretrained.model, expected, classifier), weights
        assert pretrained.note == ""


def test_vision_transformers_of_older_layouts_are_converted_as_torchvision_does() -> None:
    """Renaming the keys of a file without a layout version gives what torchvision's own loading hook gives."""
    small = {"image_size": 32, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 12}
    torch.manual_seed(6)
    model, other = (torchvision.models.VisionTransformer(**small) for _ in range(2))
    older = {_older_vit(key): value for key, value in model.state_dict().items()}
    assert sum("linear_" in key for key in older) == 8
    other.load_state_dict(older)
    converted = TorchvisionSource().convert_state("vit_b_16", older, model)
    assert converted.keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in converted.items())


@pytest.mark.parametrize("side", [32, 64])
def test_position_embeddings_of_vision_transformers_are_interpolated(side: int) -> None:
    """Those of 3 by 3 patches become those of 2 by 2 or 4 by 4, bicubic as in torchvision; the class token's stays."""
    small = {"patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 12}
    torch.manual_seed(6)
    state = torchvision.models.VisionTransformer(image_size=48, **small).state_dict()
    model = torchvision.models.VisionTransformer(image_size=side, **small)
    converted = TorchvisionSource().convert_state("vit_b_16", state, model)
    positions = state["encoder.pos_embedding"]
    grid = positions[:, 1:].permute(0, 2, 1).reshape(1, 8, 3, 3)
    resized = torch.nn.functional.interpolate(grid, size=side // 16, mode="bicubic", align_corners=True)
    expected = torch.cat([positions[:, :1], resized.flatten(2).permute(0, 2, 1)], 1)
    torch.testing.assert_close(converted["encoder.pos_embedding"], expected)
    model.load_state_dict(converted)


def test_an_image_size_that_no_patches_fill_is_refused() -> None:
    """The message says what torchvision says, and which option to change."""
    expected = r"cannot build vit_b_32 for images of 50 x 50 pixels \(.*divisible by patch size.*\); choose another"
    with pytest.raises(WeightsError, match=expected):
        load_pretrained("vit_b_32", "none", image_size=50)


def test_default_weights_do_not_change_the_random_head(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Loading the pretrained weights draws nothing from torch's generator that random weights do not draw."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    name = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT.url.rpartition("/")[2]
    torch.save(torchvision.models.squeezenet1_1().state_dict(), cache / name)
    drawn = []
    for weights in ("none", "default"):
        torch.manual_seed(5)
        load_pretrained("squeezenet1_1", weights)
        drawn.append(torch.rand(4))
    assert torch.equal(*drawn)


def test_a_damaged_file_in_the_cache_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It was not downloaded whole: the message says where it is, so that it can be deleted."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    name = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT.url.rpartition("/")[2]
    (cache / name).write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(WeightsError, match=rf"cached in {cache}\): .*delete the cached file and retry"):
        load_pretrained("squeezenet1_1", "default")


class _Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.file}",)


def test_rejects_hostile_pickles_without_running_them(tmp_path: Path) -> None:
    """A pickle that would run a command is refused, and the command does not run."""
    file, touched = tmp_path / "weights.pth", tmp_path / "touched"
    for content in ({"x": _Hostile(touched)}, _Hostile(touched)):
        torch.save(content, file)
        with pytest.raises(WeightsError, match=r"pickled Python objects \(posix\.system\), and is not loaded"):
            load_pretrained("resnet18", str(file))
        file.write_bytes(pickle.dumps(content))
        with pytest.raises(WeightsError, match=r"weights\.pth (contains|is not a readable)"):
            load_pretrained("resnet18", str(file))
    assert not touched.exists()


def _save_whole(file: Path) -> None:
    torch.save(torchvision.models.squeezenet1_1(), file)


def _save_script(file: Path) -> None:
    with pytest.warns(FutureWarning, match="deprecated"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (
            _save_whole,
            r"contains pickled Python objects \(torchvision\.models\.squeezenet\.SqueezeNet\), and is not",
        ),
        (_save_script, r"is a TorchScript program.*torch\.jit\.load\('model\.pt'\)\.state_dict\(\), 'weights\.pth'"),
    ],
    ids=["whole model", "TorchScript"],
)
def test_rejects_whole_models_in_plain_words(save: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    """What the file is, why it is not loaded and how to save a state dict: no terminal colors, no unsafe advice."""
    file = tmp_path / "model.pt"
    save(file)
    with pytest.raises(WeightsError, match=message) as refused:
        load_pretrained("squeezenet1_1", str(file))
    assert "state_dict(), 'weights.pth')" in str(refused.value)
    assert "\x1b" not in str(refused.value)
    assert "weights_only" not in str(refused.value)


def test_names_what_does_not_fit(state: State, tmp_path: Path) -> None:
    """Missing and unexpected keys, other shapes, NaN, or no weights at all."""
    file = tmp_path / "weights.pth"
    first = "features.0.weight"
    cases = [
        ({key: value for key, value in state.items() if key != first}, f"missing key: {first}; unexpected keys: none"),
        (state | {"features.99.weight": torch.ones(1)}, "missing keys: none; unexpected key: features.99.weight"),
        ({"a": torch.ones(1)}, "and 45 more; unexpected key: a"),
        (state | {first: torch.ones(2, 3)}, f"{first} has shape (2, 3), not (64, 3, 3, 3)"),
        (state | {first: torch.full((64, 3, 3, 3), torch.nan)}, f"{first} contains infinity or NaN"),
        ([1, 2], "contains no state dict: expected tensors by name, got list"),
        ({"epoch": 3}, "contains no state dict"),
    ]
    for content, message in cases:
        torch.save(content, file)
        with pytest.raises(WeightsError) as refused:
            load_pretrained("squeezenet1_1", str(file))
        assert message in str(refused.value)
    for name, content in (("cut.pth", file.read_bytes()[:100]), ("text.safetensors", b"hello"), ("empty.pth", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match="is not a readable file of weights"):
            load_pretrained("squeezenet1_1", str(tmp_path / name))


def test_rejects_unknown_backbones_and_files() -> None:
    """Similar names are listed."""
    with pytest.raises(WeightsError, match=r"torchvision has no model 'resnet19'; similar names: .*resnet18"):
        load_pretrained("resnet19", "none")
    with pytest.raises(
        WeightsError, match=r"default, builtin, none, a file or a folder; there is no file 'nowhere.pth'"
    ):
        load_pretrained("resnet18", "nowhere.pth")
