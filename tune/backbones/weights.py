"""Build a backbone with the weights it starts from, and know how its images are prepared."""

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.error import URLError

import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from unfreeze.contract.errors import ManifestError, WeightsError, first_line
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.contract.model.schema import decode, loads
from unfreeze.tune.backbones.families import build, family_of
from unfreeze.tune.backbones.network import Network, load_weights

BUILTIN_BACKBONE = "mobilenet_v3_small"
_WRAPPERS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A backbone and what it starts from.

    Args:
        model: torchvision's model.
        spec: how its images are prepared.
        weights: "default", "builtin", "none", or the file's name.
        sha256: of the file; empty where there was none.
    """

    model: nn.Module
    spec: PreprocessSpec
    weights: str
    sha256: str

    def network(self, backbone: str, classes: int, device: torch.device) -> Network:
        """Put a new head on the model, on a device: in eval mode, its convolutions' weights channels last.

        Args:
            backbone: torchvision's name of the model.
            classes: of the head.
            device: where to put it.
        """
        network = Network(backbone, self.model, self.spec, classes)
        return network.eval().to(device, memory_format=torch.channels_last)


def load_pretrained(backbone: str, weights: str) -> Pretrained:
    """Build a backbone.

    Args:
        backbone: torchvision's name of it.
        weights: "default" (torchvision's best, downloaded on first use), "builtin" (made by this project, for
            mobilenet_v3_small), "none" (random, from torch's current seed), or a file: `.safetensors`, or a state dict
            saved by `torch.save`.

    Returns:
        The model in float32 on the CPU, and what goes with it.

    Raises:
        WeightsError: the backbone is unknown, or the weights cannot be had or do not fit.
    """
    family = family_of(backbone)
    model = build(backbone)
    if weights == "none":
        return Pretrained(model=model, spec=_stock_spec(backbone), weights=weights, sha256="")
    state, spec, sha256 = _read(backbone, weights)
    _fit(model, state, family.classifier_prefixes, f"{weights} for {backbone}")
    label = weights if weights in ("default", "builtin") else Path(weights).name
    return Pretrained(model=model, spec=spec or _stock_spec(backbone), weights=label, sha256=sha256)


def _read(backbone: str, weights: str) -> tuple[dict[str, Tensor], PreprocessSpec | None, str]:
    if weights == "default":
        return _download(backbone), None, ""
    if weights == "builtin":
        if backbone != BUILTIN_BACKBONE:
            raise WeightsError(f"--weights builtin is for {BUILTIN_BACKBONE} alone, not for {backbone}")
        return _read_file(Path(str(files("unfreeze.tune") / "builtin" / f"{backbone}.safetensors")))
    path = Path(weights)
    if not path.is_file():
        raise WeightsError(f"--weights takes default, builtin, none or a file; there is no file {weights!r}")
    return _read_file(path)


def _download(backbone: str) -> dict[str, Tensor]:
    choice = torchvision.models.get_model_weights(backbone).DEFAULT
    try:
        return choice.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"torchvision's weights for {backbone} could not be downloaded from {choice.url}: {error}. "
            "Download that file on a machine that can and give it as --weights FILE, "
            f"or use --weights builtin (with --backbone {BUILTIN_BACKBONE}), which needs no download"
        ) from None


def _read_file(path: Path) -> tuple[dict[str, Tensor], PreprocessSpec | None, str]:
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        if path.suffix != ".safetensors":
            return _unwrap(torch.load(path, map_location="cpu", weights_only=True), path), None, sha256
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        spec = decode(PreprocessSpec, loads(metadata["preprocess"])) if "preprocess" in metadata else None
    except WeightsError:
        raise
    except (ManifestError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path} does not say how its images are prepared: {error}") from None
    except Exception as error:  # torch.load and safetensors raise many kinds on files that are no weights
        raise WeightsError(
            f"{path} holds no weights that can be read safely: {first_line(error)}. "
            "Expected .safetensors, or a state dict saved by torch.save(model.state_dict(), path)"
        ) from error
    return state, spec, sha256


def _unwrap(loaded: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise WeightsError(f"{path} holds no state dict: expected tensors by name, found {type(loaded).__name__}")
    return {str(key).removeprefix("module."): value for key, value in loaded.items()}


def _fit(model: nn.Module, state: dict[str, Tensor], classifier: tuple[str, ...], what: str) -> None:
    """Load all but the stock classifier, which is replaced anyway."""
    own = {key: value for key, value in model.state_dict().items() if not key.startswith(classifier)}
    given = {key: value for key, value in state.items() if not key.startswith(classifier)}
    missing, unexpected = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if missing or unexpected:
        raise WeightsError(f"the weights do not fit ({what}): missing {missing[:5]}, unexpected {unexpected[:5]}")
    for key, value in given.items():
        if value.shape != own[key].shape:
            raise WeightsError(
                f"the weights do not fit ({what}): {key} has shape {tuple(value.shape)}, not {tuple(own[key].shape)}"
            )
        if not torch.isfinite(value.float()).all():
            raise WeightsError(f"the weights are damaged ({what}): {key} holds infinities or NaN")
    load_weights(model, model.state_dict() | given)


def _stock_spec(backbone: str) -> PreprocessSpec:
    """Read the preparation off torchvision's own description, which needs no download."""
    preset = torchvision.models.get_model_weights(backbone).DEFAULT.transforms()
    return PreprocessSpec(
        resize=tuple(preset.resize_size),
        crop=(preset.crop_size[0], preset.crop_size[-1]),
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )
