"""State that the stages of a comparison share."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.compare.loaded import LoadedBackbone
from unfreeze.compare.machine import describe_versions
from unfreeze.compare.sample import Sample
from unfreeze.compare.stored import StoredResults
from unfreeze.contract.reporting import Reporter
from unfreeze.tune.device.precision import Precision
from unfreeze.tune.features.placement import CachePlacement
from unfreeze.tune.features.stored import StoredRows, stored_rows
from unfreeze.tune.options import Metric, TuneOptions
from unfreeze.tune.store.store import FeatureStore

# Options that do not change how a backbone is evaluated, or that a comparison replaces.
_NEUTRAL_OPTIONS = frozenset(
    {
        *("backbone", "weights", "backbone_reason", "recipe", "cut", "cache_gb", "store_gb", "strict"),
        "abstain_precision",
    }
)


@dataclass(frozen=True, kw_only=True)
class CompareContext:
    """State of a comparison.

    Args:
        tuning: how backbones are evaluated; its backbone, weights, recipe and cut do not matter.
        reporter: shows progress.
        sample: the images.
        precision: device and numeric type of the features.
        folder: an empty folder for cached activations.
        stored: results of earlier comparisons.
        store: features and activations of frozen blocks in earlier runs.
    """

    tuning: TuneOptions
    reporter: Reporter
    sample: Sample
    precision: Precision
    folder: Path
    stored: StoredResults
    store: FeatureStore

    @property
    def placement(self) -> CachePlacement:
        """Where to cache activations."""
        budget = round(self.tuning.cache_gb * 1e9)
        return CachePlacement(budget_bytes=budget, folder=self.folder, device=self.precision.device)

    @property
    def metric(self) -> Metric:
        """What backbones are compared by."""
        return self.tuning.metric_for(np.bincount(self.sample.labels).tolist())

    def rows(self, backbone: LoadedBackbone) -> StoredRows:
        """Return what earlier runs computed with a backbone; tuning reads the same rows."""
        return stored_rows(
            self.store,
            self.sample.digests,
            backbone.pretrained,
            backbone.network,
            lambda: backbone.network_digest,
            self.precision,
            self.precision.trunk_batch,
        )

    def key(self, backbone: LoadedBackbone, **more: Any) -> dict[str, Any]:
        """Return what an evaluation of a backbone depends on.

        Args:
            backbone: the backbone.
            more: further dependencies.
        """
        tuning = {name: value for name, value in asdict(self.tuning).items() if name not in _NEUTRAL_OPTIONS}
        return {
            **backbone.identity,
            "data": self.sample.digest,
            "precision": f"{self.precision.device.type} {self.precision.dtype}",
            "options": tuning,
            "versions": describe_versions(),
            **more,
        }
