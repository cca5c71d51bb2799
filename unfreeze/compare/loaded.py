"""A backbone with its weights, as it enters a comparison."""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch

from unfreeze.compare.options import BackboneChoice
from unfreeze.compare.sample import Sample
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.backbones.weights import Pretrained, load_pretrained
from unfreeze.tune.features.stored import state_digest, weights_digest
from unfreeze.tune.options import Pooling, TuneOptions


@dataclass(frozen=True, kw_only=True)
class LoadedBackbone:
    """A backbone with its weights.

    Args:
        choice: its name and weights.
        pretrained: model and preprocessing.
        classes: of the head.
        device: where to compute features.
        weights_digest: SHA-256 of all weights.
        pooling: how the head pools.
    """

    choice: BackboneChoice
    pretrained: Pretrained
    classes: int
    device: torch.device
    weights_digest: str
    pooling: Pooling

    @cached_property
    def network(self) -> Network:
        """The network with a new head, built when it is first needed, because tracing takes seconds."""
        return self.pretrained.network(self.choice.backbone, self.classes, self.device, self.pooling)

    @cached_property
    def network_digest(self) -> str:
        """SHA-256 of the network's weights, without a stock classifier, as tuning computes it."""
        return weights_digest(self.network)

    @property
    def identity(self) -> dict[str, Any]:
        """What results of this backbone depend on."""
        return {
            "backbone": self.pretrained.backbone,
            "weights": self.weights_digest,
            "preprocess": asdict(self.pretrained.spec),
            "classes": self.classes,
            "pooling": self.pooling,
        }


def load_backbone(choice: BackboneChoice, sample: Sample, tuning: TuneOptions, device: torch.device) -> LoadedBackbone:
    """Load a backbone; default weights are downloaded on first use.

    Raises:
        WeightsError: the backbone is unknown, or its weights are unavailable or do not fit.
    """
    torch.manual_seed(tuning.seed)
    pretrained = load_pretrained(choice.backbone, choice.weights, tuning.image_size, tuning.crop_pct)
    spec = replace(pretrained.spec, deep_range=sample.deep_range)
    return LoadedBackbone(
        choice=choice,
        pretrained=replace(pretrained, spec=spec),
        classes=sample.classes,
        device=device,
        weights_digest=state_digest(pretrained.model.state_dict()),
        pooling=tuning.pooling,
    )
