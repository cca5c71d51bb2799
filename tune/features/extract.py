"""One pass of the backbone over the training images: activations at a cut, and features pooled at every cut."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unfreeze.contract.errors import DataError, WeightsError
from unfreeze.contract.reporting import Reporter
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.data.images import LabeledImage, Skipped, labels_of
from unfreeze.tune.data.views import Views
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.features.activations import Cached, PartlyCached, Streamed
from unfreeze.tune.features.cache import advance_cache, allocate_at, cache_activations, choose_cached, with_cached
from unfreeze.tune.features.collect import Advance, FrozenPass
from unfreeze.tune.features.columns import Columns, border_columns, border_position
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
        cached: the activations at the cut, of as many images as the budget holds; None if it holds none, or if the cut
            is after the last block.
        features: averages after the last block, float32 [N, V, F].
        surveyed: numbers of the images whose features are pooled at every cut, int64 [S].
        borders: averages and maxima after each block, by the number of blocks, float32 [S, V, 2 F].
        skipped: the files that did not decode.
    """

    streamed: Streamed
    cached: Cached | PartlyCached | None
    features: Tensor
    surveyed: Tensor
    borders: dict[int, Tensor]
    skipped: tuple[Skipped, ...]

    @property
    def labels(self) -> Tensor:
        """Labels of the N images, int64."""
        return self.streamed.labels

    @property
    def cached_bytes(self) -> int:
        """Size of the cached activations."""
        cached = self.cached.cached if isinstance(self.cached, PartlyCached) else self.cached
        return 0 if cached is None else cached.activations.nbytes

    def source_at(
        self, position: int, placement: CachePlacement, reporter: Reporter | None = None
    ) -> Cached | PartlyCached | Streamed:
        """Return the activations at a cut: computed from the cached ones at an earlier cut, else from the images.

        Both caches together stay within the budget; what it does not hold is computed for each batch.

        Args:
            position: number of blocks before the cut.
            placement: where to cache them.
            reporter: shows progress.
        """
        streamed, network, whole = replace(self.streamed, position=position), self.streamed.network, self.cached
        if whole is None:
            return cache_activations(streamed, placement, reporter)
        if position == whole.position:
            return whole
        first, rows = (whole.cached, whole.rows) if isinstance(whole, PartlyCached) else (whole, None)
        taken = first.activations.nbytes
        if position < whole.position:
            return cache_activations(streamed, placement, reporter, taken)
        free = placement.budget_bytes - taken
        chosen = torch.from_numpy(choose_cached(network, position, len(first.labels), streamed.views, free))
        if not len(chosen):
            return streamed
        later = advance_cache(network, first, position, streamed.precision, placement, chosen)
        return with_cached(streamed, later.activations, chosen if rows is None else rows[chosen])


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
        position: cut whose activations are cached, of as many images as the budget holds. Nothing is cached for a cut
            after the last block.
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
    budget = placement.budget_bytes if position < len(network.block_names) else 0
    cached = choose_cached(network, position, len(images), views.count, budget)
    columns = Columns(position=position if len(cached) else None, features=True, borders=survey)
    surveyed = _surveyed(len(images), max(1, precision.trunk_batch // views.count)) & survey
    only = dict.fromkeys(border_columns(network), surveyed)
    if len(cached):
        only[columns.activations] = np.isin(np.arange(len(images)), cached)
    collected = CollectedRows(len(images), views.count, only)
    if len(cached):
        cache = allocate_at(network, position, len(cached), views.count, placement)
        collected.allocate(columns.activations, cache.flatten(0, 1))
    run = FrozenPass(
        network=network, precision=precision, images=images, views=views, stored=stored, batch=precision.trunk_batch
    )
    skipped = run.collect(columns, collected.receive, advance, only)
    left_out = {item.path for item in skipped}
    kept = np.array([image.path not in left_out for image in images], bool)
    if not kept.any():
        raise DataError(
            f"none of {len(images)} images can be decoded; the first: {skipped[0].path}: {skipped[0].reason}"
        )
    numbers = {column: torch.from_numpy(np.flatnonzero(chosen[kept])) for column, chosen in only.items()}
    extracted = _extracted(run, position, skipped, collected.by_image(kept), numbers)
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
    columns: dict[str, Tensor],
    numbers: dict[str, Tensor],
) -> ExtractedFeatures:
    left_out = {item.path for item in skipped}
    images = tuple(image for image in run.images if image.path not in left_out)
    streamed = Streamed(
        network=run.network,
        position=position,
        images=images,
        recipe=run.views,
        precision=run.precision,
        labels=labels_of(images),
        stored=run.stored,
    )
    activations = Columns(position=position).activations
    return ExtractedFeatures(
        streamed=streamed,
        cached=with_cached(streamed, columns[activations], numbers[activations]) if activations in columns else None,
        features=columns[FEATURES],
        surveyed=numbers[border_columns(run.network)[0]],
        borders={number: columns[name] for name in columns if (number := border_position(name))},
        skipped=skipped,
    )


def _check_finite(extracted: ExtractedFeatures, precision: Precision) -> None:
    if not all(features.isfinite().all() for features in (extracted.features, *extracted.borders.values())):
        raise WeightsError(
            f"in {precision.dtype} the network's features are NaN or infinite: its weights are damaged, or expect "
            f"other preprocessing{precision.overflow_advice}"
        )
