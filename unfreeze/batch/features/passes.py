"""What a run with a linear recipe computes: features of its training images, and of those that it evaluates on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from unfreeze.batch.features.spaces import PatientSpace
from unfreeze.contract.reporting import Reporter
from unfreeze.tune.data.dataset import TEST, TRAIN, VAL
from unfreeze.tune.data.images import LabeledImage, Skipped
from unfreeze.tune.data.views import Views
from unfreeze.tune.evaluation.evaluate import evaluation_batch, full_precision
from unfreeze.tune.features.collect import FrozenPass
from unfreeze.tune.features.columns import Columns
from unfreeze.tune.pipeline.context import RunContext
from unfreeze.tune.store.columns import FEATURES
from unfreeze.tune.store.space import Space

COLUMNS = Columns(features=True)


@dataclass(frozen=True, kw_only=True)
class FeaturePass:
    """One pass of a backbone over images.

    Args:
        what: the images, in a word.
        run: the pass over all of them, in the precision and the batches of a run.
        space: where their rows are stored.
    """

    what: str
    run: FrozenPass
    space: Space

    def pending(self) -> list[LabeledImage]:
        """Return the images of which a row is missing in the store."""
        keys = self.run.stored.keys(self.run.images, self.run.views)
        found = self.space.find(keys, [FEATURES]).reshape(-1, self.run.views.count).all(1)
        return [self.run.images[number] for number in np.flatnonzero(~found).tolist()]

    def over(self, images: Sequence[LabeledImage]) -> FrozenPass:
        """Return the pass over some images that writes their rows."""
        return replace(self.run, images=images, stored=replace(self.run.stored, space=PatientSpace(space=self.space)))

    def compute(self, images: Sequence[LabeledImage], reporter: Reporter) -> tuple[Skipped, ...]:
        """Compute and store the rows of images in this process; return the files that do not decode.

        Raises:
            UnfreezeError: the store is full, or the GPU has too little memory for a single image.
        """
        advance = reporter.track(f"features of {self.what}", len(images))
        return self.over(images).collect(COLUMNS, lambda _column, _rows, _values: None, advance)


def feature_passes(context: RunContext) -> Iterator[FeaturePass]:
    """Return the passes of a run with a linear recipe.

    Args:
        context: state of the run, whose store is on.
    """
    device, splits = context.precision.device, context.dataset.splits
    training = FrozenPass(
        network=context.network,
        precision=context.precision,
        images=splits[TRAIN],
        views=context.views,
        stored=context.training_rows,
        batch=context.precision.trunk_batch,
    )
    evaluated = replace(
        training,
        precision=full_precision(device),
        images=[image for split in (VAL, TEST) for image in splits.get(split, ())],
        views=Views(spec=context.pretrained.spec),
        stored=context.evaluation_rows,
        batch=evaluation_batch(device),
    )
    for what, run in (("training images", training), ("images to evaluate on", evaluated)):
        space = run.stored.space
        assert isinstance(space, Space)  # noqa: S101 - a run's own
        yield FeaturePass(what=what, run=run, space=space)
