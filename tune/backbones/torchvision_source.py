"""torchvision as a source of backbones."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from unfreeze.contract.errors import WeightsError, first_line
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.tune.backbones.families import family_of
from unfreeze.tune.backbones.source import Structure


class TorchvisionSource:
    """The classifiers of torchvision; names are those of its builders, like "resnet18"."""

    def build(self, name: str, **options: Any) -> nn.Module:
        """Build a model with random weights and the options that its pretrained weights were trained with."""
        family = family_of(name)
        names = torchvision.models.list_models(module=torchvision.models)
        if name not in names:
            close = [other for other in names if other[:5] == name[:5]]
            raise WeightsError(f"torchvision has no model {name!r}; similar names: {', '.join(close) or 'none'}")
        model: nn.Module = torchvision.models.get_model(name, weights=None, **family.options(name) | options)
        return model

    def structure(self, name: str, model: nn.Module) -> Structure:
        """Split a model into the blocks of its family."""
        family = family_of(name)
        return Structure(
            blocks=family.blocks(model),
            classifier=family.classifier(model),
            classifier_prefixes=family.classifier_prefixes,
            width_axis=family.width_axis,
        )

    def preprocess(self, name: str) -> PreprocessSpec:
        """Return the preprocessing of the default weights, which torchvision knows without downloading them."""
        preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        return PreprocessSpec(
            resize=tuple(preset.resize_size),
            crop=(preset.crop_size[0], preset.crop_size[-1]),
            interpolation=preset.interpolation.value,
            mean=tuple(preset.mean),
            std=tuple(preset.std),
        )

    def load_pretrained_state(self, name: str) -> dict[str, Tensor]:
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

    def convert_state(self, name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename keys of older layouts, as torchvision's builder or its modules do when they load a published file."""
        renames = [(re.compile(old), new) for old, new in family_of(name).renamed_keys]
        converted = {}
        for key, value in state.items():
            new_key = key
            for old, new in renames:
                new_key = old.sub(new, new_key)
            converted[new_key] = value
        return converted


def _cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"
