"""Features on a Ray cluster: workers compute rows, this process writes them into its store."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unfreeze.batch.blocks import images_per_block
from unfreeze.batch.cluster import check_gpu, connected, own_error
from unfreeze.batch.features.passes import FeaturePass
from unfreeze.batch.features.spaces import PatientSpace
from unfreeze.batch.features.worker import IMAGES, KEYS, SKIPPED, VALUES, FeatureSettings, FeatureWorker
from unfreeze.batch.ray_map import map_blocks, store_blocks
from unfreeze.contract.errors import UnfreezeError
from unfreeze.contract.folders import file_problem
from unfreeze.contract.reporting import Reporter
from unfreeze.tune.data.images import LabeledImage, Skipped
from unfreeze.tune.device.precision import CPU
from unfreeze.tune.features.columns import to_array
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.store.columns import FEATURES


def compute_on_ray(
    one: FeaturePass, images: Sequence[LabeledImage], options: TuneOptions, address: str, reporter: Reporter
) -> tuple[Skipped, ...]:
    """Compute the rows of images on a cluster and store them here; return the files that do not decode.

    Args:
        one: the pass.
        images: those to compute.
        options: of the run that will use the rows.
        address: of the cluster, see `unfreeze.batch.cluster.connected`.
        reporter: shows progress.

    Raises:
        UnfreezeError: there is no cluster, a worker cannot read the images or would compute other bits, or the store is
            full.
    """
    advance = reporter.track(f"features of {one.what}", len(images))
    space, skipped = PatientSpace(space=one.space), list[Skipped]()
    with connected(address) as ray:
        check_gpu(ray, one.run.precision.device.type, "cpu")
        objects, places = store_blocks(ray, _blocks(images, one.run.batch))
        settings = _settings(ray, one, options, objects)
        try:
            for row in map_blocks(ray, FeatureWorker, settings, places, **_resources(ray, one)):
                skipped += _received(row, space)
                advance(row[IMAGES])
        except ray.exceptions.RayError as error:
            raise own_error(error) from error
    return tuple(skipped)


def _blocks(images: Sequence[LabeledImage], batch: int) -> Iterator[bytes]:
    size = images_per_block(len(images), batch)
    for number, start in enumerate(range(0, len(images), size)):
        paths = [str(image.path.absolute()) for image in images[start : start + size]]
        yield json.dumps([number, paths]).encode()


def _settings(ray: Any, one: FeaturePass, options: TuneOptions, objects: tuple[Any, ...]) -> FeatureSettings:
    run = one.run
    state = {name: to_array(tensor.contiguous()) for name, tensor in run.network.model.state_dict().items()}
    description = one.space.description
    return FeatureSettings(
        backbone=description["backbone"],
        state=ray.put(state),
        image_size=options.image_size,
        crop_pct=options.crop_pct,
        classes=run.network.classes,
        pooling=options.pooling,
        spec=run.views.spec,
        views=run.views,
        precision=run.precision,
        batch=run.batch,
        threads=torch.get_num_threads(),
        description=description,
        blocks=objects,
    )


def _resources(ray: Any, one: FeaturePass) -> dict[str, float]:
    """Return what a worker needs: a GPU, or as many cores as it has threads, as far as a machine has them."""
    if one.run.precision.device != CPU:
        return {"gpus": 1}
    largest = max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
    return {"cpus": min(torch.get_num_threads(), largest)}


def _received(row: dict[str, Any], space: PatientSpace) -> list[Skipped]:
    """Store the rows of a block; return the files that do not decode.

    Raises:
        UnfreezeError: a file is readable here, but not for the worker; or the store is full.
    """
    keys = json.loads(row[KEYS])
    if keys and space.accepts_rows:
        space.add(keys, {FEATURES: np.frombuffer(row[VALUES], np.float32).reshape(len(keys), -1)})
    skipped = [Skipped(path=Path(path), reason=reason) for path, reason in json.loads(row[SKIPPED])]
    for one in skipped:
        if "No such file" in one.reason and file_problem(one.path) is None:
            raise UnfreezeError(
                f"a worker of the cluster cannot see {one.path}, which is on this machine; put the images into a "
                "folder that all machines share"
            )
    return skipped
