"""The classifiers of torchvision as backbones."""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from unfreeze.contract.errors import WeightsError, first_line
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.tune.backbones.blocks import split
from unfreeze.tune.backbones.families import family_of
from unfreeze.tune.backbones.source import ImageSize, Structure

_POSITIONS = "encoder.pos_embedding"


class TorchvisionSource:
    """The classifiers of torchvision; names are those of its builders, like "resnet18"."""

    def license(self, name: str) -> str:
        """Return the license, which torchvision states for some weights."""
        _check_name(name)
        return str(torchvision.models.get_model_weights(name).DEFAULT.meta.get("license", ""))

    def preprocess(self, name: str) -> PreprocessSpec:
        """Return the preprocessing of the default weights, which torchvision knows without downloading them."""
        _check_name(name)
        preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        return PreprocessSpec(
            resize=tuple(preset.resize_size),
            crop=(preset.crop_size[0], preset.crop_size[-1]),
            interpolation=preset.interpolation.value,
            mean=tuple(preset.mean),
            std=tuple(preset.std),
        )

    def build(self, name: str, image_size: ImageSize) -> nn.Module:
        """Build a model with random weights and the options that its pretrained weights were trained with."""
        _check_name(name)
        options = family_of(name).options(image_size)
        try:
            model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise WeightsError(
                f"torchvision cannot build {name} for images of {image_size[0]} x {image_size[1]} pixels "
                f"({first_line(error)}); choose another --image-size"
            ) from None
        return model

    def classifier_prefixes(self, name: str, model: nn.Module) -> tuple[str, ...]:  # noqa: ARG002
        """Return the prefixes of the family's classifiers."""
        return tuple(f"{module}." for module in family_of(name).classifier)

    def structure(self, name: str, model: nn.Module, image_size: ImageSize) -> Structure:
        """Split a model into the blocks of its family."""
        starts = family_of(name).starts(model)
        return split(model, image_size, starts=starts, classifier_prefixes=self.classifier_prefixes(name, model))

    def load_pretrained_state(self, name: str, image_size: ImageSize) -> dict[str, Tensor]:  # noqa: ARG002
        """Let torchvision load its default weights into its own model, which also converts files of older layouts."""
        choice = torchvision.models.get_model_weights(name).DEFAULT
        try:
            with torch.random.fork_rng(devices=[]):  # the new head must not depend on where the weights come from
                state: dict[str, Tensor] = torchvision.models.get_model(name, weights=choice).state_dict()
        except (URLError, TimeoutError, ConnectionError) as error:
            raise WeightsError(
                f"cannot download torchvision's weights for {name} from {choice.url}: {error}. Download that file on "
                f"another machine and pass it as --weights FILE, or copy it into {_cache()}"
            ) from None
        except Exception as error:  # what torch raises on a damaged file is not documented
            raise WeightsError(
                f"cannot load torchvision's weights for {name} ({choice.url}, cached in {_cache()}): "
                f"{first_line(error)}; delete the cached file and retry if it is damaged"
            ) from error
        return state

    def convert_state(self, name: str, state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """Rename keys of older layouts, and interpolate position embeddings of vision transformers."""
        renames = [(re.compile(old), new) for old, new in family_of(name).renamed_keys]
        converted = {}
        for key, value in state.items():
            new_key = key
            for old, new in renames:
                new_key = old.sub(new, new_key)
            converted[new_key] = value
        return _interpolated(converted, model)


def _interpolated(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Resize the position embeddings of a vision transformer for the images that a model was built for."""
    if not isinstance(model, torchvision.models.VisionTransformer) or _POSITIONS not in state:
        return state
    if state[_POSITIONS].shape == model.encoder.pos_embedding.shape:
        return state
    try:
        resized = interpolate_embeddings(model.image_size, model.patch_size, {_POSITIONS: state[_POSITIONS]})
    except (RuntimeError, ValueError, IndexError):  # of another width, which the check of shapes reports
        return state
    return state | dict(resized)


def _check_name(name: str) -> None:
    family_of(name)
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        close = [other for other in names if other[:5] == name[:5]]
        raise WeightsError(f"torchvision has no model {name!r}; similar names: {', '.join(close) or 'none'}")


def _cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"
