"""A teacher that is the network of a run."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.tune.backbones.link import probabilities
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.device.memory import halve_on_oom
from unfreeze.tune.distillation.teacher import LEAST_PROBABILITY, TeacherIdentity
from unfreeze.tune.evaluation.evaluate import evaluation_batch, full_precision
from unfreeze.tune.features.stored import describe_machine


@dataclass(frozen=True, kw_only=True)
class NetworkTeacher:
    """A tuned network, in float32.

    Args:
        identity: which model it is.
        network: in eval mode, on the device that it computes on.
        labels: in the order of its logits.
        spec: how it prepares images.
        calibration: temperature that its logits are divided by to become calibrated probabilities.
        device: that it computes on.
    """

    identity: TeacherIdentity
    network: Network
    labels: tuple[str, ...]
    spec: PreprocessSpec
    calibration: float
    device: torch.device

    @property
    def batch(self) -> int:
        """Images that it classifies at a time."""
        return evaluation_batch(self.device)

    def describe(self) -> dict[str, Any]:
        """Describe everything that answers depend on besides the image and its view."""
        return {
            "weights": self.identity.sha256,
            "link": self.network.head.link,
            "calibration": self.calibration,
            "preprocess": asdict(self.spec),
            "precision": "float32",
            "device": self.device.type,
            "batch": self.batch,
            **describe_machine(self.device),
        }

    def answer(self, pixels: UInt8[np.ndarray, "n h w 3"]) -> Float32[np.ndarray, "n c"]:
        """Return the logarithms of the calibrated probabilities of prepared images."""
        with full_precision(self.device).kernels(), torch.inference_mode():
            batch = torch.from_numpy(pixels).to(self.device)
            logits = torch.cat(list(halve_on_oom(self.network, batch))).float().cpu()
            found = probabilities(logits, self.network.head.link, self.calibration)
            answers: np.ndarray = found.clamp(min=LEAST_PROBABILITY).log().numpy()
        return answers
