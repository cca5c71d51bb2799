"""Build a backbone with the weights to start from, and the preprocessing that they expect."""

from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

from unfreeze.contract.errors import WeightsError
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.tune.backbones.network import Network, load_weights
from unfreeze.tune.backbones.source import ImageSize
from unfreeze.tune.backbones.sources import Backbone, find_backbone
from unfreeze.tune.backbones.state_keys import match_state
from unfreeze.tune.backbones.weight_files import WeightFile, read_weight_file, read_weight_folder
from unfreeze.tune.options import STOCK, Pooling

_MAX_SIDE = 4096  # of `PreprocessSpec`
BUILTIN_BACKBONE = "mobilenet_v3_small"
_BUILTIN_LICENSE = "Apache-2.0"


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
        license: of the weights; empty if it is not known.
    """

    backbone: str
    model: nn.Module
    spec: PreprocessSpec
    weights: str
    sha256: str
    note: str = ""
    license: str = ""

    def network(self, backbone: str, classes: int, device: torch.device, pooling: Pooling = STOCK) -> Network:
        """Put a new head on the model and move it to a device, in eval mode and in channels-last memory format.

        Args:
            backbone: the name of the model, with or without its source.
            classes: number of classes of the head.
            device: where to put it.
            pooling: how the head pools, see `Network`.
        """
        network = Network(backbone, self.model, self.spec, classes, pooling).eval().to(device)
        return network.to(memory_format=torch.channels_last)


def load_pretrained(
    backbone: str, weights: str, image_size: int | None = None, crop_pct: float | None = None
) -> Pretrained:
    """Build a backbone and load the weights to start from.

    Args:
        backbone: `NAME` (of torchvision) or as described in `unfreeze.tune.backbones.sources`.
        weights: "default" (the source's best, downloaded on first use), "builtin" (made by this project, for
            mobilenet_v3_small only), "none" (random, from torch's current seed), or a file or folder, see
            `unfreeze.tune.backbones.weight_files`.
        image_size: side of the square input in pixels; None for that of the weights. Position embeddings are
            interpolated.
        crop_pct: side of the input as a share of the resized image's shorter side; None for that of the weights.

    Returns:
        The model in float32 on the CPU, and its preprocessing.

    Raises:
        WeightsError: the backbone is unknown, or the weights cannot be obtained or do not fit.
    """
    found = find_backbone(backbone)
    read = _read(found, weights)
    spec = _resized((read.preprocess if read else None) or found.preprocess(), image_size, crop_pct)
    size = spec.shape[:2]
    model = found.build(size)
    if weights == "default":
        read = WeightFile(states={"": _load_default(found, size)}, preprocess=None, sha256="")
    note = "" if read is None else _load(model, read, found, f"{weights} for {backbone}")
    label = weights if weights in ("default", "builtin", "none") else Path(weights).name
    return Pretrained(
        backbone=str(found),
        model=model,
        spec=spec,
        weights=label,
        sha256=read.sha256 if read else "",
        note=f"weights {label}: {note}" if note and label not in ("default", "builtin") else "",
        license=found.license() if weights == "default" else _BUILTIN_LICENSE if weights == "builtin" else "",
    )


def _resized(spec: PreprocessSpec, image_size: int | None, crop_pct: float | None) -> PreprocessSpec:
    """Change the size of a network's input, or its share of the resized image."""
    if image_size is None and crop_pct is None:
        return spec
    side = image_size or min(spec.crop)
    share = crop_pct or min(spec.crop) / min(spec.resize)
    longer = min(_MAX_SIDE, max(side, round(side / share)))
    return replace(spec, resize=(longer,) * len(spec.resize), crop=(side, side))


def _read(backbone: Backbone, weights: str) -> WeightFile | None:
    if weights in ("none", "default"):
        return None
    if weights == "builtin":
        if find_backbone(BUILTIN_BACKBONE) != backbone:
            raise WeightsError(f"--weights builtin exists for {BUILTIN_BACKBONE} only, got --backbone {backbone.name}")
        return read_weight_file(Path(str(files("unfreeze.tune") / "builtin" / f"{BUILTIN_BACKBONE}.safetensors")))
    path = Path(weights)
    if not path.exists():
        raise WeightsError(
            f"--weights must be default, builtin, none, a file or a folder; there is no file {weights!r}"
        )
    return read_weight_folder(path) if path.is_dir() else read_weight_file(path)


def _load_default(backbone: Backbone, image_size: ImageSize) -> dict[str, Tensor]:
    try:
        return backbone.load_pretrained_state(image_size)
    except WeightsError as error:
        raise WeightsError(
            f"{error}; --weights builtin (with --backbone {BUILTIN_BACKBONE}) needs no download"
        ) from error.__cause__


def _load(model: nn.Module, read: WeightFile, backbone: Backbone, what: str) -> str:
    """Load all weights but those of the stock classifier, which a new head replaces; return a note on what was read."""
    own = model.state_dict()
    prefixes = backbone.classifier_prefixes(model)
    match = match_state(read.states, own, prefixes, lambda state: backbone.convert_state(state, model), what)
    for key, value in match.state.items():
        if value.shape != own[key].shape:
            raise WeightsError(
                f"the weights do not fit ({what}): {key} has shape {tuple(value.shape)}, not {tuple(own[key].shape)}"
            )
        if not torch.isfinite(value.float()).all():
            raise WeightsError(f"the weights are damaged ({what}): {key} contains infinity or NaN")
    load_weights(model, own | match.state)
    return str(match)
