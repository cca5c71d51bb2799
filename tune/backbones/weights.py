"""Build a backbone with the weights to start from, and the preprocessing that they expect."""

from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

from unfreeze.contract.errors import WeightsError
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.tune.backbones.network import Network, load_weights
from unfreeze.tune.backbones.sources import Backbone, find_backbone
from unfreeze.tune.backbones.state_keys import match_state
from unfreeze.tune.backbones.weight_files import WeightFile, read_weight_file

_MAX_SIDE = 4096  # of `PreprocessSpec`
BUILTIN_BACKBONE = "mobilenet_v3_small"


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A backbone with the weights to start from.

    Args:
        backbone: `SOURCE/NAME`.
        model: the source's model, with its stock classifier.
        spec: the preprocessing that the weights expect.
        weights: "default", "builtin", "none", or the file's name.
        sha256: SHA-256 of the file; empty if no file was read.
        note: one line on what was read from a file that holds more than the backbone; empty otherwise.
    """

    backbone: str
    model: nn.Module
    spec: PreprocessSpec
    weights: str
    sha256: str
    note: str = ""

    def at_size(self, image_size: int | None, crop_pct: float | None) -> "Pretrained":
        """Change the preprocessing to another input size or another crop.

        Args:
            image_size: side of the square crop in pixels; None keeps the size of the weights.
            crop_pct: side of the crop as a share of the resized image's shorter side; None keeps that of the weights.
        """
        if image_size is None and crop_pct is None:
            return self
        side = image_size or min(self.spec.crop)
        share = crop_pct or min(self.spec.crop) / min(self.spec.resize)
        resize = (min(_MAX_SIDE, max(side, round(side / share))),)
        return replace(self, spec=replace(self.spec, resize=resize, crop=(side, side)))

    def network(self, backbone: str, classes: int, device: torch.device) -> Network:
        """Put a new head on the model and move it to a device, in eval mode and in channels-last memory format.

        Args:
            backbone: the name of the model, with or without its source.
            classes: number of classes of the head.
            device: where to put it.
        """
        network = Network(backbone, self.model, self.spec, classes).eval().to(device)
        return network.to(memory_format=torch.channels_last)


def load_pretrained(backbone: str, weights: str) -> Pretrained:
    """Build a backbone and load the weights to start from.

    Args:
        backbone: `NAME` (of torchvision) or `SOURCE/NAME`.
        weights: "default" (the source's best, downloaded on first use), "builtin" (made by this project, for
            mobilenet_v3_small only), "none" (random, from torch's current seed), or a file: `.safetensors`, or a
            checkpoint saved by `torch.save`.

    Returns:
        The model in float32 on the CPU, and its preprocessing.

    Raises:
        WeightsError: the backbone is unknown, or the weights cannot be obtained or do not fit.
    """
    found = find_backbone(backbone)
    model = found.build()
    read = _read(found, weights)
    label = weights if weights in ("default", "builtin", "none") else Path(weights).name
    note = ""
    if read is not None:
        note = _load(model, read, found, f"{weights} for {backbone}")
    return Pretrained(
        backbone=str(found),
        model=model,
        spec=(read.preprocess if read else None) or found.preprocess(),
        weights=label,
        sha256=read.sha256 if read else "",
        note=f"weights {label}: {note}" if note and label not in ("default", "builtin") else "",
    )


def _read(backbone: Backbone, weights: str) -> WeightFile | None:
    if weights == "none":
        return None
    if weights == "default":
        return WeightFile(states={"": _load_default(backbone)}, preprocess=None, sha256="")
    if weights == "builtin":
        if find_backbone(BUILTIN_BACKBONE) != backbone:
            raise WeightsError(f"--weights builtin exists for {BUILTIN_BACKBONE} only, got --backbone {backbone.name}")
        return read_weight_file(Path(str(files("unfreeze.tune") / "builtin" / f"{BUILTIN_BACKBONE}.safetensors")))
    path = Path(weights)
    if not path.is_file():
        raise WeightsError(f"--weights must be default, builtin, none or a file; there is no file {weights!r}")
    return read_weight_file(path)


def _load_default(backbone: Backbone) -> dict[str, Tensor]:
    try:
        return backbone.load_pretrained_state()
    except WeightsError as error:
        raise WeightsError(
            f"{error}; --weights builtin (with --backbone {BUILTIN_BACKBONE}) needs no download"
        ) from error.__cause__


def _load(model: nn.Module, read: WeightFile, backbone: Backbone, what: str) -> str:
    """Load all weights but those of the stock classifier, which a new head replaces; return a note on what was read."""
    own = model.state_dict()
    prefixes = backbone.structure(model).classifier_prefixes
    match = match_state(read.states, own, prefixes, backbone.convert_state, what)
    for key, value in match.state.items():
        if value.shape != own[key].shape:
            raise WeightsError(
                f"the weights do not fit ({what}): {key} has shape {tuple(value.shape)}, not {tuple(own[key].shape)}"
            )
        if not torch.isfinite(value.float()).all():
            raise WeightsError(f"the weights are damaged ({what}): {key} contains infinity or NaN")
    load_weights(model, own | match.state)
    return str(match)
