"""The worker of a Ray cluster that runs a backbone over images."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from unfreeze.batch.features.passes import COLUMNS
from unfreeze.batch.features.spaces import CollectingSpace
from unfreeze.batch.ray_map import OBJECT, PLACE
from unfreeze.contract.cores import limit_cores
from unfreeze.contract.errors import UnfreezeError
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.backbones.weights import load_pretrained
from unfreeze.tune.data.images import LabeledImage
from unfreeze.tune.data.views import Views
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.features.collect import FrozenPass
from unfreeze.tune.features.stored import StoredRows, describe_pass, weights_digest
from unfreeze.tune.options import Pooling
from unfreeze.tune.store.columns import FEATURES

if TYPE_CHECKING:
    from ray import ObjectRef

KEYS, VALUES, SKIPPED, IMAGES, PASS = "keys", "values", "skipped", "images", "pass"


@dataclass(frozen=True, kw_only=True)
class PassSettings:
    """How the rows of one space are computed.

    Args:
        views: which views are made of each image.
        precision: device and numeric type.
        batch: images in a batch.
        description: of the space.
    """

    views: Views
    precision: Precision
    batch: int
    description: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """What a worker needs beside the images.

    Args:
        backbone: `SOURCE/NAME`.
        state: weights of the backbone, in the object store.
        image_size: side of the input in pixels; None for that of the weights.
        crop_pct: share of the resized image that it is; None for that of the weights.
        classes: number of classes of the head.
        pooling: how the head pools.
        passes: the spaces that rows are computed for.
        threads: of torch, which the bits of the values depend on.
        blocks: lists of blocks as JSON, in the object store.
    """

    backbone: str
    state: "ObjectRef[Any]"
    image_size: int | None
    crop_pct: float | None
    classes: int
    pooling: Pooling
    passes: tuple[PassSettings, ...]
    threads: int
    blocks: "tuple[ObjectRef[Any], ...]"


class FeatureWorker:
    """Runs a backbone over blocks of images.

    Args:
        settings: of the job.

    Raises:
        UnfreezeError: this machine would compute other bits than the one that uses the store.
    """

    def __init__(self, settings: FeatureSettings) -> None:
        limit_cores(settings.threads)
        torch.set_num_threads(settings.threads)
        self._settings = settings
        self._network = _load(settings)
        identity = {"backbone": settings.backbone, "weights": weights_digest(self._network)}
        for one in settings.passes:
            own = describe_pass(self._network, one.views.spec, one.precision, one.batch)
            check_description(identity | own, one.description)

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Yield the rows of each block."""
        import ray

        for row in table.to_pylist():
            number, paths = json.loads(ray.get(self._settings.blocks[row[OBJECT]])[row[PLACE]])
            yield self._compute(number, [LabeledImage(path=Path(path), label=0) for path in paths])

    def _compute(self, number: int, images: list[LabeledImage]) -> pa.Table:
        """Compute the rows of a block for the pass of this number."""
        one, space = self._settings.passes[number], CollectingSpace()
        run = FrozenPass(
            network=self._network,
            precision=one.precision,
            images=images,
            views=one.views,
            stored=StoredRows(space=space, digests={}),
            batch=one.batch,
        )
        with one.precision.kernels():
            skipped = run.collect(COLUMNS, lambda _column, _rows, _values: None, lambda _: None)
        values = np.concatenate(space.rows.get(FEATURES, [np.empty((0, 0), np.float32)]))
        return pa.table(
            {
                PASS: [number],
                KEYS: [json.dumps(space.keys)],
                VALUES: pa.array([values.tobytes()], pa.large_binary()),
                SKIPPED: [json.dumps([[str(file.path), file.reason] for file in skipped])],
                IMAGES: [len(images)],
            }
        )


def _load(settings: FeatureSettings) -> Network:
    import ray

    pretrained = load_pretrained(settings.backbone, "none", settings.image_size, settings.crop_pct)
    device = settings.passes[0].precision.device
    network = pretrained.network(settings.backbone, settings.classes, device, settings.pooling)
    network.model.load_state_dict(
        {name: torch.from_numpy(values.copy()) for name, values in ray.get(settings.state).items()}
    )
    return network


def check_description(own: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Check that this machine computes the rows of a space.

    Raises:
        UnfreezeError: it differs; the message says in what.
    """
    own, wanted = (json.loads(json.dumps(description)) for description in (own, wanted))
    different = [
        f"{name} {own.get(name)!r} instead of {wanted[name]!r}" for name in wanted if own.get(name) != wanted[name]
    ]
    if different:
        import ray

        node = ray.util.get_node_ip_address() if ray.is_initialized() else "this machine"
        raise UnfreezeError(
            f"{node} would compute features with other bits than the machine that uses them: {', '.join(different)}; "
            "use machines of one kind with the same packages"
        )
