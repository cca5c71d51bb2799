"""One pass of the backbone over the training images: activations at a cut, and features pooled at every cut."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from unfreeze.contract.errors import DataError, WeightsError
from unfreeze.contract.reporting import Reporter
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.data.images import LabeledImage, Skipped, labels_of
from unfreeze.tune.data.views import Views
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.features.activations import Cached, Streamed
from unfreeze.tune.features.cache import advance_cache, allocate_at, cache_activations, fits
from unfreeze.tune.features.collect import Advance, FrozenPass
from unfreeze.tune.features.columns import Columns, border_position
from unfreeze.tune.features.placement import CachePlacement
from unfreeze.tune.features.rows import CollectedRows
from unfreeze.tune.features.stored import NOTHING_STORED, StoredRows
from unfreeze.tune.store.columns import FEATURES

SURVEYED_IMAGES = 4000  # the standard error of an accuracy over 4,000 images is below 0.008


@dataclass(frozen=True, kw_only=True)
class ExtractedFeatures:
    """The result of one pass over the N images that decode, in V views.

    Args:
        streamed: computes the activations at the cut from the images.
        cached: the activations at the cut; None if they exceed the budget, or if the cut is after the last block.
        features: averages after the last block, float32 [N, V, F].
        surveyed: numbers of the images whose features are pooled at every cut, int64 [S].
        borders: averages and maxima after each block, by the number of blocks, float32 [S, V, 2 F].
        skipped: the files that did not decode.
    """

    streamed: Streamed
    cached: Cached | None
    features: Tensor
    surveyed: Tensor
    borders: dict[int, Tensor]
    skipped: tuple[Skipped, ...]

    @property
    def labels(self) -> Tensor:
        """Labels of the N images, int64."""
        return self.streamed.labels

    def source_at(
        self, position: int, placement: CachePlacement, reporter: Reporter | None = None
    ) -> Cached | Streamed:
        """Return the activations at a cut: computed from the cached ones at an earlier cut, else from the images.

        Args:
            position: number of blocks before the cut.
            placement: where to cache them.
            reporter: shows progress.
        """
        streamed = replace(self.streamed, position=position)
        if self.cached is None or position < self.cached.position:
            return cache_activations(streamed, placement, reporter)
        if not fits(streamed.network, position, len(streamed.images), streamed.views, placement):
            return streamed
        return advance_cache(streamed.network, self.cached, position, streamed.precision, placement)


def extract_features(  # noqa: PLR0913 - one pass computes several results
    network: Network,
    position: int,
    images: Sequence[LabeledImage],
    views: Views,
    precision: Precision,
    placement: CachePlacement,
    advance: Advance = lambda _: None,
    *,
    survey: bool = False,
    stored: StoredRows = NOTHING_STORED,
) -> ExtractedFeatures:
    """Run all blocks once over every view of every image whose results are not stored.

    Args:
        network: the network, in eval mode, on the precision's device.
        position: cut whose activations are cached, unless they exceed the budget. Nothing is cached for a cut after
            the last block.
        images: those that do not decode are left out.
        views: how the V views of an image are made.
        precision: device and numeric type to compute in.
        placement: where to cache activations.
        advance: called with the number of images processed.
        survey: also pool the features at every cut, for at most about 4,000 of the images, evenly spaced.
        stored: results of earlier runs.

    Raises:
        DataError: no image decodes.
        WeightsError: features are NaN or infinite.
        UnfreezeError: the disk is full, or the GPU has too little memory for a single image.
    """
    caches = position < len(network.block_names) and fits(network, position, len(images), views.count, placement)
    columns = Columns(position=position if caches else None, features=True, borders=survey)
    surveyed = _surveyed(len(images), max(1, precision.trunk_batch // views.count)) & survey
    collected = CollectedRows(views.count, surveyed)
    if caches:
        cache = allocate_at(network, position, len(images), views.count, placement)
        collected.allocate(columns.activations, cache.flatten(0, 1))
    run = FrozenPass(
        network=network, precision=precision, images=images, views=views, stored=stored, batch=precision.trunk_batch
    )
    skipped = run.collect(columns, collected.receive, advance, surveyed)
    left_out = {item.path for item in skipped}
    kept = np.array([image.path not in left_out for image in images], bool)
    if not kept.any():
        raise DataError(
            f"none of {len(images)} images can be decoded; the first: {skipped[0].path}: {skipped[0].reason}"
        )
    extracted = _extracted(run, position, skipped, collected.by_image(kept), columns.activations)
    _check_finite(extracted, precision)
    return extracted


def _surveyed(images: int, chunk: int) -> np.ndarray:
    """Choose evenly spaced chunks of the images, bool."""
    stride = -(-images // SURVEYED_IMAGES)
    chosen: np.ndarray = np.arange(images) // chunk % max(1, stride) == 0
    return chosen


def _extracted(
    run: FrozenPass,
    position: int,
    skipped: tuple[Skipped, ...],
    collected: tuple[dict[str, Tensor], Tensor],
    activations: str,
) -> ExtractedFeatures:
    left_out = {item.path for item in skipped}
    images = tuple(image for image in run.images if image.path not in left_out)
    labels, (columns, surveyed) = labels_of(images), collected
    cached = None
    if activations in columns:
        cached = Cached(position=position, activations=columns[activations], labels=labels, device=run.precision.device)
    borders = {number: columns[name] for name in columns if (number := border_position(name))}
    return ExtractedFeatures(
        streamed=Streamed(
            network=run.network,
            position=position,
            images=images,
            recipe=run.views,
            precision=run.precision,
            labels=labels,
            stored=run.stored,
        ),
        cached=cached,
        features=columns[FEATURES],
        surveyed=surveyed,
        borders=borders,
        skipped=skipped,
    )


def _check_finite(extracted: ExtractedFeatures, precision: Precision) -> None:
    if not all(features.isfinite().all() for features in (extracted.features, *extracted.borders.values())):
        raise WeightsError(
            f"in {precision.dtype} the network's features are NaN or infinite: its weights are damaged, or expect "
            f"other preprocessing{precision.overflow_advice}"
        )
