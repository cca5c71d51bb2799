"""State that the stages of a run share."""

from dataclasses import dataclass
from functools import cached_property

from unfreeze.contract.reporting import Reporter
from unfreeze.tune.artifacts.resume import ResumeState
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.backbones.weights import Pretrained
from unfreeze.tune.data.dataset import TRAIN, Dataset
from unfreeze.tune.data.images import LabeledImage, labels_of
from unfreeze.tune.data.inspection.inspection import Inspection
from unfreeze.tune.data.views import Views
from unfreeze.tune.device.distributed import Workers
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.distillation.teacher import Teacher
from unfreeze.tune.evaluation.evaluate import evaluation_batch, full_precision
from unfreeze.tune.features.placement import CachePlacement
from unfreeze.tune.features.stored import StoredRows, stored_rows, weights_digest
from unfreeze.tune.options import Metric, TuneOptions
from unfreeze.tune.selection.flip_test import tolerates_flips
from unfreeze.tune.store.store import NO_STORE, FeatureStore


@dataclass(kw_only=True)
class RunContext:
    """State of a run.

    Args:
        options: options of the run.
        reporter: shows progress.
        dataset: without the files that could not be decoded so far.
        inspection: what was found in the dataset.
        pretrained: weights and preprocessing of the backbone.
        precision: device and numeric type.
        network: pretrained, with a new head; it is not trained itself.
        placement: where to cache activations.
        resume_state: the state from which an interrupted run continues.
        workers: processes that share the work.
        store: results of frozen blocks in earlier runs.
        teacher: whose answers may be trained on; None without one.
    """

    options: TuneOptions
    reporter: Reporter
    dataset: Dataset
    inspection: Inspection
    pretrained: Pretrained
    precision: Precision
    network: Network
    placement: CachePlacement
    resume_state: ResumeState
    workers: Workers
    store: FeatureStore = NO_STORE
    teacher: Teacher | None = None

    @property
    def own_images(self) -> tuple[LabeledImage, ...]:
        """The training images of this process."""
        return self.dataset.splits[TRAIN][self.workers.rank :: self.workers.count]

    @property
    def views(self) -> Views:
        """The views to make of each training image."""
        flip = self.options.views > 1 and self.allows_flips
        return Views(spec=self.pretrained.spec, count=self.options.views, seed=self.options.seed, flip=flip)

    @property
    def metric(self) -> Metric:
        """What candidates are compared by, and the result with the probe."""
        return self.options.metric_for(labels_of(self.dataset.splits[TRAIN]).bincount().tolist())

    @cached_property
    def training_rows(self) -> StoredRows:
        """What earlier runs computed of training images, in the run's precision."""
        return self._rows(self.precision, self.precision.trunk_batch)

    @cached_property
    def evaluation_rows(self) -> StoredRows:
        """What earlier runs computed of images to evaluate on, in full precision."""
        device = self.precision.device
        return self._rows(full_precision(device), evaluation_batch(device))

    @cached_property
    def _weights_digest(self) -> str:
        return weights_digest(self.network)

    def _rows(self, precision: Precision, batch: int) -> StoredRows:
        return stored_rows(
            self.store,
            self.inspection.digests,
            self.pretrained,
            self.network,
            lambda: self._weights_digest,
            precision,
            batch,
        )

    @cached_property
    def allows_flips(self) -> bool:
        """Whether training may flip images horizontally."""
        if self.options.flip != "auto":
            return self.options.flip == "yes"
        images = self.dataset.splits[TRAIN]
        tolerated = tolerates_flips(self.network, images, self.pretrained.spec, self.precision)
        self.reporter.info(
            "horizontal flips do not lower probe accuracy, so training flips at random"
            if tolerated
            else "horizontal flips may lower probe accuracy, so training does not flip images"
        )
        return tolerated
