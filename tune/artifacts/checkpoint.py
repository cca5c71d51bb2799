"""Save and load a finished run: weights as safetensors, facts and metrics as JSON, no pickle."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors.torch
from torch import Tensor

from unfreeze.contract.errors import CheckpointError, ManifestError, first_line
from unfreeze.contract.files import replacing
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.contract.model.manifest import Provenance, check_abstain_below, check_labels
from unfreeze.contract.model.ood import OutOfDistribution
from unfreeze.contract.model.schema import decode, loads
from unfreeze.contract.model.upgrade import upgraded_from_2
from unfreeze.tune.backbones.link import LINKS, SOFTMAX
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.backbones.sources import find_backbone
from unfreeze.tune.data.dataset import LabeledImage
from unfreeze.tune.ood.detector import SCORE_PREFIX
from unfreeze.tune.options import STOCK, Pooling

WEIGHTS_FILE, FACTS_FILE, METRICS_FILE = "model.safetensors", "run.json", "metrics.json"
_MAX_FACTS_BYTES = 2**30  # file names of millions of validation images


@dataclass(frozen=True, kw_only=True)
class LabeledFile:
    """An image of the dataset.

    Args:
        path: relative to the dataset's folder, or absolute if the image is elsewhere; separated by `/`.
        label: index into the labels.
    """

    path: str
    label: int


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Contents of `run.json`: everything that export needs besides the weights.

    Args:
        labels: one per class, in the order of the logits.
        preprocess: how images are prepared.
        temperature: divides the logits before they become probabilities; above 0.
        provenance: where the weights come from.
        metrics: exported with the model, by name.
        data: the dataset's folder.
        val: validation images.
        calibration: training images of every class, from which export derives the ranges of activations.
        training: training images of every class, on which export may finish an int8 graph; empty for the calibration
            images.
        link: how the head's logits become probabilities, "softmax" or "sigmoid".
        pooling: how the head pools, "stock" or "class-mean".
        abstain_below: a classification whose highest probability is below this is uncertain; None if no
            `abstain_precision` was requested, or none was found.
        ood: how images unlike the training images are recognized; None if not requested, or of an earlier version.
        weights_sha256: SHA-256 of `model.safetensors`; filled in by `save_run`.

    Raises:
        ValueError: labels, temperature, link or confidence are invalid.
    """

    labels: tuple[str, ...]
    preprocess: PreprocessSpec
    temperature: float
    provenance: Provenance
    metrics: dict[str, float]
    data: str
    val: tuple[LabeledFile, ...]
    calibration: tuple[LabeledFile, ...] = ()
    training: tuple[LabeledFile, ...] = ()
    link: str = SOFTMAX
    pooling: Pooling = STOCK
    abstain_below: float | None = None
    ood: OutOfDistribution | None = None
    weights_sha256: str = ""

    def __post_init__(self) -> None:
        """Validate the values."""
        check_labels(self.labels)
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if self.link not in LINKS:
            raise ValueError(f"link must be one of {', '.join(LINKS)}, got {self.link!r}")
        check_abstain_below(self.abstain_below)
        for file in (*self.val, *self.calibration, *self.training):
            if not 0 <= file.label < len(self.labels):
                raise ValueError(f"{file.path} has label {file.label}, but there are {len(self.labels)} labels")

    def images(
        self, data: str | os.PathLike[str] | None = None, *, calibration: bool = False
    ) -> tuple[LabeledImage, ...]:
        """Return the validation images.

        Args:
            data: the dataset's folder, or its CSV file, if it was moved.
            calibration: return the calibration images instead.
        """
        return self._located(self.calibration if calibration else self.val, data)

    def training_images(self, data: str | os.PathLike[str] | None = None) -> tuple[LabeledImage, ...]:
        """Return the training images that an int8 graph may be finished on; `data` is that of `images`."""
        return self._located(self.training or self.calibration, data)

    def _located(self, files: tuple[LabeledFile, ...], data: str | os.PathLike[str] | None) -> tuple[LabeledImage, ...]:
        root = Path(data or self.data)
        root = root.parent if root.is_file() else root
        return tuple(LabeledImage(path=root / file.path, label=file.label) for file in files)


def save_run(
    out: Path,
    network: Network,
    facts: RunFacts,
    metrics: dict[str, Any],
    score: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Write the files of a finished run, each under a temporary name first.

    `run.json` marks a folder as a run. It is deleted first and written last, so a crash in between leaves no run
    rather than a mixture of two.

    Args:
        out: the folder, which exists.
        network: the network whose weights are saved; it may be on any device.
        facts: written to `run.json`.
        metrics: written to `metrics.json`.
        score: tensors of the out-of-distribution score, written with the weights.
    """
    state = {**network.export_state(), **score}
    weights = safetensors.torch.save({key: value.detach().cpu() for key, value in state.items()})
    facts = dataclasses.replace(facts, weights_sha256=hashlib.sha256(weights).hexdigest())
    contents = {
        WEIGHTS_FILE: weights,
        METRICS_FILE: _json(metrics),
        FACTS_FILE: _json(dataclasses.asdict(facts)),
    }
    (out / FACTS_FILE).unlink(missing_ok=True)
    for name, content in contents.items():
        with replacing(out / name) as file:
            file.write(content)


def load_run(run: str | os.PathLike[str]) -> tuple[Network, RunFacts]:
    """Load a finished run.

    Args:
        run: the folder that `unfreeze tune` wrote.

    Returns:
        The network, in float32 on the CPU in eval mode, and the run's facts.

    Raises:
        CheckpointError: the folder contains no finished run, or the run is damaged.
    """
    folder = Path(run)
    check_finished(folder)
    try:
        facts = decode(RunFacts, upgraded_from_2(loads((folder / FACTS_FILE).read_bytes(), max_bytes=_MAX_FACTS_BYTES)))
        state = safetensors.torch.load(_read_weights(folder / WEIGHTS_FILE, facts.weights_sha256))
        backbone = facts.provenance.backbone
        model = find_backbone(backbone).build(facts.preprocess.shape[:2])
        network = Network(backbone, model, facts.preprocess, len(facts.labels), facts.pooling)
        network.import_state({key: value for key, value in state.items() if not key.startswith(SCORE_PREFIX)})
        network.head.link = facts.link
    except ManifestError as error:
        raise CheckpointError(f"{folder / FACTS_FILE}: {error}") from None
    except CheckpointError:
        raise
    except Exception as error:  # safetensors and load_state_dict raise many types
        raise CheckpointError(f"{folder} is damaged: {first_line(error)}; tune again") from error
    return network.eval(), facts


def read_metrics(run: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the metrics of a finished run.

    Raises:
        CheckpointError: they cannot be read.
    """
    path = Path(run) / METRICS_FILE
    try:
        metrics: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; tune again") from error
    return metrics


def check_finished(folder: Path) -> None:
    """Check that a folder contains a finished run.

    Raises:
        CheckpointError: it does not.
    """
    if not (folder / FACTS_FILE).is_file():
        raise CheckpointError(
            f"{folder} contains no finished run: there is no {FACTS_FILE}; create one with `unfreeze tune`"
        )


def _read_weights(path: Path, sha256: str) -> bytes:
    if not path.is_file():
        raise CheckpointError(f"{path.parent} is damaged: there is no file {path.name}; tune again")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if sha256 not in ("", found):  # empty in runs of earlier versions
        raise CheckpointError(
            f"{path} was changed after tuning: its SHA-256 is {found}, but {FACTS_FILE} says {sha256}; copy it again"
        )
    return content


def _json(document: object) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
