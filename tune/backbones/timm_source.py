"""The models of timm as backbones, by their name in timm or by a repository on the Hugging Face Hub."""

import sys
from collections.abc import Mapping
from difflib import get_close_matches
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from unfreeze.contract.errors import WeightsError, first_line
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.tune.backbones.blocks import split
from unfreeze.tune.backbones.source import ImageSize, Structure
from unfreeze.tune.backbones.timm_config import preprocess_from_config

_HUB = "hf-hub:"


class TimmSource:
    """The models of timm. They are built without a classifier, and end with the features that timm's own would get.

    Args:
        prefix: put before a name for timm: "hf-hub:" for repositories on the Hub, whose `config.json` names a model.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix

    def license(self, name: str) -> str:
        """Return the license that timm's configuration states."""
        return str(self._config(name).get("license") or "")

    def preprocess(self, name: str) -> PreprocessSpec:
        """Return the preprocessing of the default weights."""
        return preprocess_from_config(self._config(name), self._prefix + name)

    def build(self, name: str, image_size: ImageSize) -> nn.Module:
        """Build a model with random weights."""
        return self._create(name, image_size, pretrained=False)

    def classifier_prefixes(self, name: str, model: nn.Module) -> tuple[str, ...]:  # noqa: ARG002
        """Return the prefixes of the classifiers that timm's configuration names, and that published files contain.

        The model has none. A normalization that belongs to a classifier is removed with it, so that the prefix is that
        of the outermost module of which nothing is left.
        """
        classifiers = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
        kept = list(model.state_dict())
        return tuple(f"{_outermost(one, kept)}." for one in _names(classifiers))

    def structure(self, name: str, model: nn.Module, image_size: ImageSize) -> Structure:  # noqa: ARG002
        """Split a model into blocks where its graph can be cut."""
        return split(model, image_size)

    def load_pretrained_state(self, name: str, image_size: ImageSize) -> dict[str, Tensor]:
        """Let timm download its weights, or read them from its cache, and fit them to the image size."""
        config = self._config(name)
        if not any(config.get(key) for key in ("hf_hub_id", "url", "file")):
            raise WeightsError(f"timm publishes no weights for {name}; give --weights FILE, or none for random ones")
        with torch.random.fork_rng(devices=[]):  # the new head must not depend on where the weights come from
            return self._create(name, image_size, pretrained=True).state_dict()

    def convert_state(self, name: str, state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """Convert as timm does when it loads a file: rename keys, and interpolate position embeddings."""
        del name
        module = sys.modules[type(model).__module__]
        convert = getattr(module, "checkpoint_filter_fn", None)
        if convert is None:
            return dict(state)
        try:
            return dict(convert(dict(state), model))
        except Exception:  # noqa: BLE001 - it expects the keys of a complete file; what is missing is reported later
            return dict(state)

    def _config(self, name: str) -> dict[str, Any]:
        timm = _import_timm()
        if self._prefix == _HUB:
            return self._hub_config(timm, name)
        architecture = name.partition(".")[0]
        if current := timm.models.get_deprecated_models().get(architecture):
            raise WeightsError(f"timm has no model {name!r}; it is now called {current!r}")
        if not timm.is_model(architecture):
            raise WeightsError(f"timm has no model {name!r}; similar names: {_similar(timm, name)}")
        try:
            config: dict[str, Any] = timm.models.get_pretrained_cfg(name).to_dict()
        except (RuntimeError, AttributeError):
            others = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
            raise WeightsError(f"timm {timm.__version__} has no weights named {name!r}; it has: {others}") from None
        return config

    def _hub_config(self, timm: ModuleType, name: str) -> dict[str, Any]:
        try:
            config, _, _ = timm.models.load_model_config_from_hf(name)
        except Exception as error:  # the Hub's client raises many types
            raise _unavailable(self._prefix, name, name, error) from error
        return dict(config)

    def _create(self, name: str, image_size: ImageSize, *, pretrained: bool) -> nn.Module:
        """Build a model, with as many of the options for another image size as its class knows."""
        timm, config = _import_timm(), self._config(name)
        options: list[dict[str, Any]] = [
            {"img_size": image_size, "dynamic_img_size": False},
            {"img_size": image_size},
            {},
        ]
        for option in options:
            try:
                return _built(timm, self._prefix + name, pretrained=pretrained, **option)
            except TypeError as error:
                if option == options[-1]:
                    raise WeightsError(f"timm cannot build {name}: {first_line(error)}") from error
            except (OSError, ValueError, RuntimeError, AssertionError) as error:
                if pretrained:
                    raise _unavailable(self._prefix or "timm/", name, config.get("hf_hub_id") or name, error) from error
                raise WeightsError(
                    f"timm cannot build {name} for images of {image_size[0]} x {image_size[1]} pixels: "
                    f"{first_line(error)}; choose another --image-size"
                ) from error
        raise AssertionError(options)


def _built(timm: ModuleType, name: str, **options: Any) -> nn.Module:
    model: nn.Module = timm.create_model(name, num_classes=0, **options)
    return model


def _names(classifiers: str | tuple[str, ...]) -> tuple[str, ...]:
    return (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)


def _outermost(path: str, kept: list[str]) -> str:
    """Return the outermost ancestor of a module under which no key is left."""
    parent = path.rpartition(".")[0]
    return path if not parent or any(key.startswith(f"{parent}.") for key in kept) else _outermost(parent, kept)


def _import_timm() -> ModuleType:
    try:
        import timm
    except ImportError:
        raise WeightsError("timm is not installed; install it with: pip install 'unfreeze[timm]'") from None
    module: ModuleType = timm
    return module


def _similar(timm: ModuleType, name: str) -> str:
    return ", ".join(get_close_matches(name.partition(".")[0], timm.list_models(), 5, 0.5)) or "none"


def _unavailable(prefix: str, name: str, repository: str, error: Exception) -> WeightsError:
    return WeightsError(
        f"cannot download {prefix}{name} from the Hugging Face Hub, and it is not in the Hub's cache "
        f"({first_line(error)}). On a machine with access, run: hf download {repository} --local-dir FOLDER; then copy "
        "the folder and pass it as --weights FOLDER"
    )
