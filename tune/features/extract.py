"""One pass of the backbone over the training images: what is kept at a cut, and what is pooled at every border."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from unfreeze.contract.errors import DataError, WeightsError
from unfreeze.contract.reporting import Reporter
from unfreeze.tune.backbones.network import Network, pool
from unfreeze.tune.data.images import LabeledImage, Skipped, labels_of
from unfreeze.tune.data.views import Views, load_views
from unfreeze.tune.device.memory import in_halves
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.device.staging import stacked
from unfreeze.tune.features.cache import Advance, Cached, Streamed, advance_cache, allocate_at, fits, keep
from unfreeze.tune.features.placement import CachePlacement

SURVEYED_IMAGES = 4000  # the standard error of an accuracy over so many is below 0.008


@dataclass(frozen=True, kw_only=True)
class ExtractedFeatures:
    """What one pass gives, of the N images that decode, in V views.

    Args:
        streamed: computes the activations at the cut anew.
        kept: the activations at the cut; None where nothing was to be kept, or there was no room.
        features: pooled by average behind the last block, float32 [N, V, F].
        surveyed: the numbers of the images that were surveyed, int64 [S].
        borders: by position, pooled by average and maximum behind so many blocks, float32 [S, V, 2 F].
        skipped: the files that did not decode.
    """

    streamed: Streamed
    kept: Cached | None
    features: Tensor
    surveyed: Tensor
    borders: dict[int, Tensor]
    skipped: tuple[Skipped, ...]

    @property
    def labels(self) -> Tensor:
        """Of the N images, int64."""
        return self.streamed.labels

    def source_at(
        self, position: int, placement: CachePlacement, reporter: Reporter | None = None
    ) -> Cached | Streamed:
        """Give the activations at a cut: from those that are kept where they lie before it, else from the images."""
        streamed = replace(self.streamed, position=position)
        if self.kept is None or position < self.kept.position:
            return keep(streamed, placement, reporter)
        if not fits(streamed.network, position, len(streamed.images), streamed.views, placement):
            return streamed
        return advance_cache(streamed.network, self.kept, position, streamed.precision, placement)


@dataclass(kw_only=True)
class _Pass:
    """What a pass has extracted so far."""

    network: Network
    position: int
    precision: Precision
    views: int
    kept: Tensor | None = None
    done: int = 0
    features: list[Tensor] = field(default_factory=list)
    surveyed: list[Tensor] = field(default_factory=list)
    borders: dict[int, list[Tensor]] = field(default_factory=dict)

    def take(self, batch: Tensor, *, surveyed: bool) -> None:
        """Run a few images' views, [n, V, H, W, 3], through all blocks.

        Raises:
            UnfreezeError: the GPU's memory does not hold a single image with its views.
        """
        in_halves(partial(self._take, surveyed=surveyed), batch)

    def _take(self, batch: Tensor, *, surveyed: bool) -> None:
        network, borders = self.network, {}
        activations = self.precision.lay_out(batch.flatten(0, 1))
        self._keep(0, activations)
        for index in range(len(network.block_names)):
            with torch.inference_mode(), self.precision.autocast():
                activations = network.run_blocks(activations, index, index + 1)
            self._keep(index + 1, activations)
            if surveyed:
                borders[index + 1] = network.pool_border(activations, index + 1).cpu().unflatten(0, batch.shape[:2])
        # From here on memory cannot run out: a batch that is tried anew in halves is noted once.
        self.features.append(pool(activations).cpu().unflatten(0, batch.shape[:2]))
        for position, pooled in borders.items():
            self.borders.setdefault(position, []).append(pooled)
        self.surveyed += [torch.arange(self.done, self.done + len(batch))] if surveyed else []
        self.done += len(batch)

    def _keep(self, position: int, activations: Tensor) -> None:
        if self.kept is not None and position == self.position:
            parts = activations.to(self.kept.dtype).unflatten(0, (-1, self.views))
            self.kept[self.done : self.done + len(parts)] = parts

    def result(self, images: tuple[LabeledImage, ...], views: Views, skipped: tuple[Skipped, ...]) -> ExtractedFeatures:
        labels = labels_of(images)
        streamed = Streamed(
            network=self.network,
            position=self.position,
            images=images,
            recipe=views,
            precision=self.precision,
            labels=labels,
        )
        return ExtractedFeatures(
            streamed=streamed,
            kept=None
            if self.kept is None
            else Cached(
                position=self.position,
                activations=self.kept[: self.done],
                labels=labels,
                device=self.precision.device,
            ),
            features=torch.cat(self.features).clone(),
            surveyed=torch.cat(self.surveyed) if self.surveyed else torch.empty(0, dtype=torch.int64),
            borders={position: torch.cat(parts).clone() for position, parts in self.borders.items()},
            skipped=skipped,
        )


def extract_features(  # noqa: PLR0913 - one pass gives several things
    network: Network,
    position: int,
    images: Sequence[LabeledImage],
    views: Views,
    precision: Precision,
    placement: CachePlacement,
    advance: Advance = lambda _: None,
    *,
    survey: bool = False,
) -> ExtractedFeatures:
    """Run all blocks once over every view of every image.

    Args:
        network: in eval mode, on the precision's device.
        position: at which cut to keep the activations; behind the last block nothing is kept but the features. Where
            they would take more than the room allows, they are not kept but computed when they are wanted.
        images: what to run; those that do not decode are left out.
        views: V per image.
        precision: to run in.
        placement: for the activations.
        advance: called with the number of images done.
        survey: also pool at every border, for about 4,000 of the images at most, evenly spaced.

    Raises:
        DataError: not one image decodes.
        WeightsError: the network makes numbers of them that are none.
        UnfreezeError: there is no room on the disk, or the GPU's memory does not hold a single image.
    """
    going = _Pass(network=network, position=position, precision=precision, views=views.count)
    if position < len(network.block_names) and fits(network, position, len(images), views.count, placement):
        going.kept = allocate_at(network, position, len(images), views.count, placement)
    skipped: list[Skipped] = []
    done: list[LabeledImage] = []
    stride = -(-len(images) // SURVEYED_IMAGES)
    chunks = _chunks(load_views(images, views, skipped), precision.trunk_batch, views.count)
    with precision.kernels(len(images) * views.count // precision.trunk_batch):
        for number, chunk in enumerate(chunks):
            going.take(stacked([made for _, made in chunk], precision.device), surveyed=survey and number % stride == 0)
            done += [image for image, _ in chunk]
            advance(len(chunk))
    if not done:
        raise DataError(f"none of {len(images)} images decodes; the first: {skipped[0].path}: {skipped[0].reason}")
    extracted = going.result(tuple(done), views, tuple(skipped))
    if not all(features.isfinite().all() for features in (extracted.features, *extracted.borders.values())):
        raise WeightsError(
            f"in {precision.dtype} the network makes numbers of the images that are none: its weights are damaged, "
            f"or made for images prepared in another way{precision.remedy}"
        )
    return extracted


def _chunks(
    loaded: Iterator[tuple[LabeledImage, np.ndarray]], batch: int, views: int
) -> Iterator[list[tuple[LabeledImage, np.ndarray]]]:
    while chunk := list(islice(loaded, max(1, batch // views))):
        yield chunk
