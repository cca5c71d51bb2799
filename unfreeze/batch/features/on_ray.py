"""Features on a Ray cluster: workers compute rows, this process writes them into its store."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unfreeze.batch.blocks import images_per_block
from unfreeze.batch.cluster import check_gpu, connected, own_error, raise_behind
from unfreeze.batch.features.passes import FeaturePass
from unfreeze.batch.features.spaces import PatientSpace
from unfreeze.batch.features.worker import (
    IMAGES,
    KEYS,
    PASS,
    SKIPPED,
    VALUES,
    FeatureSettings,
    FeatureWorker,
    PassSettings,
)
from unfreeze.batch.ray_map import map_blocks, store_blocks
from unfreeze.contract.errors import UnfreezeError
from unfreeze.contract.folders import file_problem
from unfreeze.contract.reporting import Reporter
from unfreeze.tune.data.images import LabeledImage, Skipped
from unfreeze.tune.device.precision import CPU
from unfreeze.tune.features.columns import to_array
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.store.columns import FEATURES

Pending = Sequence[tuple[FeaturePass, Sequence[LabeledImage]]]


def compute_on_ray(pending: Pending, options: TuneOptions, address: str, reporter: Reporter) -> tuple[Skipped, ...]:
    """Compute the rows of images on a cluster and store them here; return the files that do not decode.

    Args:
        pending: passes, and the images to compute for each.
        options: of the run that will use the rows.
        address: of the cluster, see `unfreeze.batch.cluster.connected`.
        reporter: shows progress.

    Raises:
        UnfreezeError: there is no cluster, a worker cannot read the images or would compute other bits, or the store is
            full.
    """
    advance = reporter.track("features", sum(len(images) for _, images in pending))
    spaces, skipped = [PatientSpace(space=one.space) for one, _ in pending], list[Skipped]()
    device = pending[0][0].run.precision.device
    with connected(address) as ray:
        if device != CPU:
            check_gpu(ray, device.type)
        objects, places = store_blocks(ray, _blocks(pending))
        settings = _settings(ray, [one for one, _ in pending], options, objects)
        failure: UnfreezeError | None = None
        try:
            for row in map_blocks(ray, FeatureWorker, settings, places, **_resources(ray, device)):
                skipped += _received(row, spaces[row[PASS]])
                advance(row[IMAGES])
        except ray.exceptions.RayError as error:
            failure = own_error(error)
        raise_behind(failure)
    return tuple(skipped)


def _blocks(pending: Pending) -> Iterator[bytes]:
    """Yield blocks as JSON: the number of a pass, and paths."""
    for number, (one, images) in enumerate(pending):
        size = images_per_block(len(images), one.run.batch)
        for start in range(0, len(images), size):
            yield json.dumps([number, [str(image.path.absolute()) for image in images[start : start + size]]]).encode()


def _settings(
    ray: Any, passes: Sequence[FeaturePass], options: TuneOptions, objects: tuple[Any, ...]
) -> FeatureSettings:
    network = passes[0].run.network
    state = {name: to_array(tensor.contiguous()) for name, tensor in network.model.state_dict().items()}
    return FeatureSettings(
        backbone=passes[0].space.description["backbone"],
        state=ray.put(state),
        image_size=options.image_size,
        crop_pct=options.crop_pct,
        classes=network.classes,
        pooling=options.pooling,
        passes=tuple(
            PassSettings(
                views=one.run.views,
                precision=one.run.precision,
                batch=one.run.batch,
                description=one.space.description,
            )
            for one in passes
        ),
        threads=torch.get_num_threads(),
        blocks=objects,
    )


def _resources(ray: Any, device: torch.device) -> dict[str, float]:
    """Return what a worker needs: a GPU, or as many cores as it has threads, as far as a machine has them."""
    if device != CPU:
        return {"gpus": 1}
    largest = max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
    return {"cpus": min(torch.get_num_threads(), largest)}


def _received(row: dict[str, Any], space: PatientSpace) -> list[Skipped]:
    """Store the rows of a block; return the files that do not decode.

    Raises:
        UnfreezeError: a file is readable here, but not for the worker; or the store is full.
    """
    keys = json.loads(row[KEYS])
    if keys:
        space.add(keys, {FEATURES: np.frombuffer(row[VALUES], np.float32).reshape(len(keys), -1)})
    skipped = [Skipped(path=Path(path), reason=reason) for path, reason in json.loads(row[SKIPPED])]
    for one in skipped:
        if "No such file" in one.reason and file_problem(one.path) is None:
            raise UnfreezeError(
                f"a worker of the cluster cannot see {one.path}, which is on this machine; put the images into a "
                "folder that all machines share"
            )
    return skipped
