"""Folders of weights, as repositories on the Hugging Face Hub have them."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision

from unfreeze.contract.errors import WeightsError
from unfreeze.tune.backbones.weights import load_pretrained

NAME = "squeezenet1_1"
CONFIG = {"architecture": NAME, "pretrained_cfg": {"input_size": [3, 96, 96], "crop_pct": 0.75, "std": [0.5, 0.5, 0.5]}}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Random weights."""
    torch.manual_seed(3)
    return torchvision.models.squeezenet1_1().state_dict()


def _write_single(folder: Path, state: dict[str, torch.Tensor]) -> None:
    safetensors.torch.save_file(state, folder / "model.safetensors")
    torch.save({key: value + 1 for key, value in state.items()}, folder / "pytorch_model.bin")  # not read


def _write_shards(folder: Path, state: dict[str, torch.Tensor]) -> None:
    keys = sorted(state)
    for number, part in enumerate((keys[::2], keys[1::2]), start=1):
        name = f"model-0000{number}-of-00002.safetensors"
        safetensors.torch.save_file({key: state[key] for key in part}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {}}))


def _write_pickle(folder: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, folder / "pytorch_model.bin")


@pytest.mark.parametrize("write", [_write_single, _write_shards, _write_pickle])
def test_weights_are_read_from_one_file_or_several(
    write: object, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """A pickle is the last choice; all shards are read, and the preprocessing of config.json."""
    write(tmp_path, state)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    pretrained = load_pretrained(NAME, str(tmp_path))
    own = pretrained.model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items() if not key.startswith("classifier"))
    assert (pretrained.weights, len(pretrained.sha256)) == (tmp_path.name, 64)
    spec = pretrained.spec
    assert (spec.resize, spec.crop, spec.interpolation, spec.std) == ((128,), (96, 96), "bicubic", (0.5, 0.5, 0.5))


def test_without_a_configuration_the_preprocessing_is_the_backbones(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """A config.json of another program is ignored."""
    _write_single(tmp_path, state)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "squeezenet"}))
    spec = load_pretrained(NAME, str(tmp_path)).spec
    assert (spec.resize, spec.crop, spec.interpolation) == ((256,), (224, 224), "bilinear")


def test_rejects_folders_that_cannot_be_read(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Without weights, or with a configuration that is no JSON or not for color images."""
    with pytest.raises(WeightsError, match=r"contains no weights; expected one of model\*\.safetensors"):
        load_pretrained(NAME, str(tmp_path))
    _write_single(tmp_path, state)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json is not valid JSON"):
        load_pretrained(NAME, str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"input_size": [1, 96, 96]}}))
    with pytest.raises(WeightsError, match=r"the input_size of .*config\.json must be \(3, height, width\)"):
        load_pretrained(NAME, str(tmp_path))
