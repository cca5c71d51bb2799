"""Read weights without running code: safetensors, checkpoints saved by `torch.save`, and folders from the Hub."""

import argparse
import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from unfreeze.contract.errors import ManifestError, WeightsError, first_line
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.contract.model.schema import decode, loads
from unfreeze.tune.backbones.timm_config import preprocess_from_config

# Averaged weights first, as timm prefers them, and DINO's teacher before its student.
_PREFERRED_ENTRIES = ("state_dict_ema", "model_ema", "ema", "teacher", "state_dict", "model_state_dict", "model", "net")
_DEEPEST_ENTRY = 3
_FOLDER_PATTERNS = ("model*.safetensors", "pytorch_model*.bin", "*.safetensors", "*.bin", "*.pth", "*.pt")
_UNSAFE_CLASS = re.compile(r"GLOBAL ([\w.]+)")


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """The content of a file of weights.

    Args:
        states: state dicts by the path of their entry in the file, like "state_dict"; "" for a bare state dict. The
            preferred one comes first.
        preprocess: how images are prepared, if the file specifies it.
        sha256: of the file.
    """

    states: dict[str, dict[str, Tensor]]
    preprocess: PreprocessSpec | None
    sha256: str


def read_weight_file(path: Path) -> WeightFile:
    """Read a `.safetensors` file, or any other file as a checkpoint saved by `torch.save`.

    Raises:
        WeightsError: the file cannot be read without running code, or holds no tensors.
    """
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        if path.suffix == ".safetensors":
            state, preprocess = _read_safetensors(path)
            return WeightFile(states={"": state}, preprocess=preprocess, sha256=sha256)
        loaded = _read_checkpoint(path)
    except WeightsError:
        raise
    except Exception as error:  # torch.load and safetensors raise many kinds of errors on other files
        raise WeightsError(
            f"{path} is not a readable file of weights: {first_line(error)}. Expected .safetensors, or a state dict "
            "saved by torch.save(model.state_dict(), path)"
        ) from error
    states = dict(_state_dicts(loaded))
    if not states:
        raise WeightsError(f"{path} contains no state dict: expected tensors by name, got {type(loaded).__name__}")
    ordered = sorted(states, key=_preference)
    return WeightFile(states={entry: states[entry] for entry in ordered}, preprocess=None, sha256=sha256)


def read_weight_folder(folder: Path) -> WeightFile:
    """Read a folder as repositories on the Hugging Face Hub have them: weights in one or several files, and a config.

    The preprocessing is that of `config.json`, if it is timm's.

    Raises:
        WeightsError: there is no file of weights, or it cannot be read.
    """
    paths = next((found for pattern in _FOLDER_PATTERNS if (found := sorted(folder.glob(pattern)))), [])
    if not paths:
        raise WeightsError(f"{folder} contains no weights; expected one of {', '.join(_FOLDER_PATTERNS)}")
    files = [read_weight_file(path) for path in paths]
    first, digests = files[0], "".join(file.sha256 for file in files)
    if len(files) > 1:  # the shards of one state dict
        state = {key: value for file in files for key, value in next(iter(file.states.values())).items()}
        first = replace(first, states={"": state}, sha256=hashlib.sha256(digests.encode()).hexdigest())
    return replace(first, preprocess=first.preprocess or _folder_preprocess(folder))


def _folder_preprocess(folder: Path) -> PreprocessSpec | None:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise WeightsError(f"{path} is not valid JSON: {error}") from None
    described = config.get("pretrained_cfg", config) if isinstance(config, dict) else {}
    return preprocess_from_config(described, str(path)) if "input_size" in described else None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], PreprocessSpec | None]:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    try:
        preprocess = decode(PreprocessSpec, loads(metadata["preprocess"])) if "preprocess" in metadata else None
    except (ManifestError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path} has invalid preprocessing metadata: {error}") from None
    return state, preprocess


def _read_checkpoint(path: Path) -> object:
    if _is_torchscript(path):
        raise WeightsError(
            f"{path} is a TorchScript program, which is not loaded because it contains code. If you trust its "
            f"origin, save its weights: torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')"
        )
    try:
        # Training scripts save their command line with the weights; a Namespace holds values and runs no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        unsafe = _UNSAFE_CLASS.search(str(error))
        contents = f"pickled Python objects ({unsafe[1]})" if unsafe else "a pickle of something other than tensors"
        raise WeightsError(
            f"{path} contains {contents}, and is not loaded because unpickling can run arbitrary code. "
            "If you trust its origin, load it in the program that made it and save a state dict: "
            "torch.save(model.state_dict(), 'weights.pth')"
        ) from None


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in archive.namelist())


def _state_dicts(loaded: Any, entry: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Find all mappings of names to tensors, at most a few levels deep."""
    if not isinstance(loaded, Mapping) or depth > _DEEPEST_ENTRY:
        return
    named = {key: value for key, value in loaded.items() if isinstance(key, str)}
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    if tensors:
        yield entry, tensors
    for key, value in named.items():
        yield from _state_dicts(value, f"{entry}.{key}".lstrip("."), depth + 1)


def _preference(entry: str) -> int:
    last = entry.rpartition(".")[2]
    return _PREFERRED_ENTRIES.index(last) if last in _PREFERRED_ENTRIES else len(_PREFERRED_ENTRIES)
