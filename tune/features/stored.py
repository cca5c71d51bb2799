"""Which rows of the feature store belong to which images."""

import hashlib
import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import PIL
import torch
import torchvision
from torch import Tensor

from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.contract.versions import installed_versions
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.backbones.weights import Pretrained
from unfreeze.tune.data.images import LabeledImage
from unfreeze.tune.data.views import Views
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.features.columns import to_array
from unfreeze.tune.store.segments import KEY_LENGTH
from unfreeze.tune.store.space import Receive
from unfreeze.tune.store.store import NO_STORE, FeatureStore

_FORMAT = 1  # of rows; raise it when a column changes its meaning


@runtime_checkable
class RowSpace(Protocol):
    """Rows of one network, preprocessing and precision; `unfreeze.tune.store.space.Space` is one."""

    @property
    def is_on(self) -> bool:
        """Whether rows are read."""

    @property
    def accepts_rows(self) -> bool:
        """Whether new rows would be written."""

    def find(self, keys: Sequence[str], columns: Collection[str]) -> np.ndarray:
        """Return which keys have rows with all of some columns, bool."""

    def read(self, keys: Sequence[str], columns: Collection[str], receive: Receive) -> np.ndarray:
        """Read the rows that have all of some columns; return which rows were received."""

    def add(self, keys: Sequence[str], columns: Mapping[str, np.ndarray]) -> None:
        """Write rows."""


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """The rows of the images of a run.

    Args:
        space: rows of one network, preprocessing and precision.
        digests: SHA-256 of the bytes of each image, by its path.
    """

    space: RowSpace
    digests: Mapping[Path, bytes]

    def keys(self, images: Sequence[LabeledImage], views: Views) -> list[str]:
        """Return the keys of the views of images, image after image; of an image without a digest, the empty key."""
        digests = [self.digests.get(image.path) for image in images]
        return [
            row_key(digest, image.path.name, views, number) if digest else ""
            for image, digest in zip(images, digests, strict=True)
            for number in range(views.count)
        ]


NOTHING_STORED = StoredRows(space=NO_STORE.space({}), digests={})


def row_key(digest: bytes, name: str, views: Views, number: int) -> str:
    """Return the key of a view.

    Args:
        digest: SHA-256 of the image's bytes.
        name: of its file, which seeds random views.
        views: how the views are made.
        number: of the view; 0 is the image as served, whatever its name.
    """
    identity = f"{views.seed} {number} {views.flip} {name}" if number else ""
    return hashlib.sha256(digest + identity.encode("utf-8", "surrogateescape")).hexdigest()[:KEY_LENGTH]


def describe_pass(network: Network, spec: PreprocessSpec, precision: Precision, batch: int) -> dict[str, Any]:
    """Describe everything that values depend on, besides the backbone's weights, the image and its view.

    Args:
        network: the pretrained network.
        spec: how images are prepared.
        precision: device and numeric type that the frozen blocks compute in.
        batch: images that they compute at a time; values are rounded differently in other batches.
    """
    return {
        "format": _FORMAT,
        "blocks": list(network.block_names),
        "features": list(network.border_shape(len(network.block_names))),  # tokens, or what was pooled from them
        "preprocess": asdict(spec),
        "precision": str(precision.dtype).removeprefix("torch."),
        "device": precision.device.type,
        "batch": batch,
        **describe_machine(precision.device),
    }


def stored_rows(
    store: FeatureStore,
    digests: Mapping[Path, bytes],
    pretrained: Pretrained,
    network: Network,
    weights: Callable[[], str],
    precision: Precision,
    batch: int,
) -> StoredRows:
    """Return what earlier runs and comparisons computed with a pretrained network.

    Args:
        store: where rows are stored.
        digests: SHA-256 of the bytes of each image, by its path.
        pretrained: the network's backbone and preprocessing.
        network: the pretrained network.
        weights: returns its `weights_digest`; called only if the store is on.
        precision: device and numeric type that the frozen blocks compute in.
        batch: images that they compute at a time.
    """
    if not store.is_on:
        return NOTHING_STORED
    names = {"backbone": pretrained.backbone, "weights": weights()}
    space = store.space(names | describe_pass(network, pretrained.spec, precision, batch))
    return StoredRows(space=space, digests=digests)


def weights_digest(network: Network) -> str:
    """Return the SHA-256 of a pretrained network's weights without its head: names, shapes, types and bytes."""
    return state_digest(network.model.state_dict())


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of weights: names, shapes, types and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(to_array(tensor.contiguous()).tobytes())
    return digest.hexdigest()


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what else changes the rounding of values: software, and the kind of processor."""
    software = {
        "unfreeze": version("unfreeze"),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": installed_versions("timm").get("timm", ""),
        "pillow": PIL.__version__,
    }
    if device.type == "cuda":
        return software | {"processor": torch.cuda.get_device_name(device), "cudnn": torch.backends.cudnn.version()}
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return software | {"processor": processor, "threads": torch.get_num_threads()}
