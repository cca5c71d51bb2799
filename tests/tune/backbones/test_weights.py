"""Weights to start from: downloaded, built in, from a file, or refused."""

import os
import pickle
from pathlib import Path
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
import torchvision

from unfreeze.contract.errors import WeightsError
from unfreeze.tune.backbones.weights import load_pretrained


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Random weights of a squeezenet1_1."""
    torch.manual_seed(3)
    return torchvision.models.squeezenet1_1().state_dict()


def _same(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> bool:
    own = model.state_dict()
    return all(torch.equal(own[key], value) for key, value in state.items() if not key.startswith("classifier"))


@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
def test_state_dicts_are_read_as_torch_saves_them(wrap: object, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Bare or wrapped, with DataParallel's prefix, with any classifier: the blocks' weights are taken."""
    prefixed = {f"module.{key}": value for key, value in state.items() if not key.startswith("classifier")}
    for number, given in enumerate((state, prefixed)):
        file = tmp_path / f"{number}.pth"
        torch.save(wrap(given), file)
        pretrained = load_pretrained("squeezenet1_1", str(file))
        assert _same(pretrained.model, state)
        assert pretrained.weights == file.name
        assert len(pretrained.sha256) == 64


def test_safetensors_are_read(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """The same weights as safetensors, in half precision."""
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({key: value.half() for key, value in state.items()}, file)
    pretrained = load_pretrained("squeezenet1_1", str(file))
    assert _same(pretrained.model, {key: value.half().float() for key, value in state.items()})
    assert next(pretrained.model.parameters()).dtype == torch.float32


def test_none_gives_random_weights_by_torchs_seed() -> None:
    """The seed decides, and torchvision's preparation is kept."""
    torch.manual_seed(1)
    first = load_pretrained("resnet18", "none")
    torch.manual_seed(1)
    again = load_pretrained("resnet18", "none")
    other = load_pretrained("resnet18", "none")
    assert _same(first.model, again.model.state_dict())
    assert not _same(first.model, other.model.state_dict())
    assert (first.spec.resize, first.spec.crop, first.weights) == ((256,), (224, 224), "none")


def test_builtin_is_for_one_backbone() -> None:
    """The weights that come with the package load with their own preparation, and fit no other backbone."""
    pretrained = load_pretrained("mobilenet_v3_small", "builtin")
    assert pretrained.spec.crop == (160, 160)
    assert all(torch.isfinite(value.float()).all() for value in pretrained.model.state_dict().values())
    with pytest.raises(WeightsError, match="builtin is for mobilenet_v3_small alone, not for resnet18"):
        load_pretrained("resnet18", "builtin")


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a network, `default` names the address that it could not reach and the other ways to go."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", offline)  # the network, which is not ours
    with pytest.raises(
        WeightsError, match=r"resnet18 could not be downloaded from https://\S+resnet18-\S+: .*no route"
    ) as refused:
        load_pretrained("resnet18", "default")
    assert "--weights FILE" in str(refused.value)
    assert "--weights builtin" in str(refused.value)


def test_default_takes_what_torch_has_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Weights that have been downloaded before are taken from torch's cache; damaged ones are refused."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT.url.rpartition("/")[2]
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.manual_seed(9)
    model = torchvision.models.squeezenet1_1()
    torch.save(model.state_dict(), cache / name)
    assert _same(load_pretrained("squeezenet1_1", "default").model, model.state_dict())


class _Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.file}",)


def test_hostile_pickles_are_refused_and_do_nothing(tmp_path: Path) -> None:
    """A pickle that would run a command is refused, and the command does not run."""
    file, touched = tmp_path / "weights.pth", tmp_path / "touched"
    for content in ({"x": _Hostile(touched)}, _Hostile(touched)):
        torch.save(content, file)
        with pytest.raises(WeightsError, match="holds no weights that can be read safely"):
            load_pretrained("resnet18", str(file))
        file.write_bytes(pickle.dumps(content))
        with pytest.raises(WeightsError, match="holds no weights that can be read safely"):
            load_pretrained("resnet18", str(file))
    assert not touched.exists()


def test_files_that_do_not_fit_are_refused_with_what_differs(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Missing, unexpected, misshapen, damaged, not weights at all: each is named."""
    file = tmp_path / "weights.pth"
    first = "features.0.weight"
    cases = [
        ({key: value for key, value in state.items() if key != first}, f"missing ['{first}']"),
        (state | {"extra": torch.ones(1)}, "unexpected ['extra']"),
        (state | {first: torch.ones(2, 3)}, f"{first} has shape (2, 3), not (64, 3, 3, 3)"),
        (state | {first: torch.full((64, 3, 3, 3), torch.nan)}, f"{first} holds infinities or NaN"),
        ([1, 2], "holds no state dict: expected tensors by name, found list"),
        ({"epoch": 3}, "holds no state dict"),
    ]
    for content, message in cases:
        torch.save(content, file)
        with pytest.raises(WeightsError) as refused:
            load_pretrained("squeezenet1_1", str(file))
        assert message in str(refused.value)
    for name, content in (("cut.pth", file.read_bytes()[:100]), ("text.safetensors", b"hello"), ("empty.pth", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match="holds no weights that can be read safely"):
            load_pretrained("squeezenet1_1", str(tmp_path / name))


def test_unknown_backbones_and_files_are_refused() -> None:
    """What is close is listed."""
    with pytest.raises(WeightsError, match=r"torchvision has no model 'resnet19'; it has .*resnet18"):
        load_pretrained("resnet19", "none")
    with pytest.raises(WeightsError, match=r"default, builtin, none or a file; there is no file 'nowhere.pth'"):
        load_pretrained("resnet18", "nowhere.pth")
