"""A run's folder: weights as safetensors and facts as JSON, no pickle."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from unfreeze.contract.errors import CheckpointError, ManifestError, first_line
from unfreeze.contract.files import replacing
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.contract.model.manifest import Provenance, check_abstain_below, check_labels
from unfreeze.contract.model.schema import decode, loads
from unfreeze.tune.backbones.families import build
from unfreeze.tune.backbones.link import LINKS, SOFTMAX
from unfreeze.tune.backbones.network import Network
from unfreeze.tune.data.dataset import LabeledImage

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

WEIGHTS_FILE, FACTS_FILE, METRICS_FILE = "model.safetensors", "run.json", "metrics.json"
_MOST_FACTS = 2**30  # millions of validation images, by name


@dataclass(frozen=True, kw_only=True)
class LabeledFile:
    """An image of the data, by its path in there.

    Args:
        path: relative to the data's folder, or absolute where the image lies elsewhere; with `/`.
        label: index into the labels.
    """

    path: str
    label: int


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What `run.json` says.

    Args:
        labels: one per class, in the order of the logits.
        preprocess: how images are prepared.
        temperature: what the logits are divided by first.
        provenance: where the weights come from.
        metrics: the figures that travel with the model, by name.
        data: the folder that the run learned from.
        val: the validation images that it was measured on.
        calibration: some training images, of every class, by which export finds the ranges of activations.
        link: how logits become probabilities, "softmax" or "sigmoid": the head's.
        abstain_below: an answer whose first probability is below this is unsure; None where nothing was asked for.
        weights_sha256: of `model.safetensors`; `save_run` fills it in.

    Raises:
        ValueError: labels, temperature, link or confidence make no sense.
    """

    labels: tuple[str, ...]
    preprocess: PreprocessSpec
    temperature: float
    provenance: Provenance
    metrics: dict[str, float]
    data: str
    val: tuple[LabeledFile, ...]
    calibration: tuple[LabeledFile, ...] = ()
    link: str = SOFTMAX
    abstain_below: float | None = None
    weights_sha256: str = ""

    def __post_init__(self) -> None:
        """Validate once, where it is built."""
        check_labels(self.labels)
        if self.temperature <= 0:
            raise ValueError(f"the temperature is above 0, found {self.temperature}")
        if self.link not in LINKS:
            raise ValueError(f"the link is one of {', '.join(LINKS)}, found {self.link!r}")
        check_abstain_below(self.abstain_below)
        for file in (*self.val, *self.calibration):
            if not 0 <= file.label < len(self.labels):
                raise ValueError(f"{file.path} has label {file.label}; there are {len(self.labels)} labels")

    def images(
        self, data: str | os.PathLike[str] | None = None, *, calibration: bool = False
    ) -> tuple[LabeledImage, ...]:
        """Find the validation images.

        Args:
            calibration: find those for calibration instead.
            data: where the data's folder, or the CSV file in it, is now, if it has moved.
        """
        files = self.calibration if calibration else self.val
        root = Path(data or self.data)
        root = root.parent if root.is_file() else root
        return tuple(LabeledImage(path=root / file.path, label=file.label) for file in files)


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Make a run's folder and keep other processes from tuning into it meanwhile.

    Args:
        out: the folder.

    Raises:
        CheckpointError: it cannot be made, or another process tunes into it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(f"{out} cannot be a run's folder: {error.strerror}; choose another --out") from error
    try:
        if fcntl is not None:  # Windows has no such locks
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise CheckpointError(f"another process is tuning into {out}; choose another --out") from None
    finally:
        os.close(folder)


def save_run(out: Path, network: Network, facts: RunFacts, metrics: dict[str, Any]) -> None:
    """Write a run's folder, file by file under temporary names.

    `run.json`, which makes it a run, goes first and comes last: a crash in between leaves no run, never a mixed one.

    Args:
        out: the folder, which exists.
        network: whose weights are kept, on any device.
        facts: what export needs.
        metrics: what people and benchmarks read.
    """
    weights = safetensors.torch.save({key: value.detach().cpu() for key, value in network.export_state().items()})
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
    """Read a run's folder.

    Args:
        run: the folder that `unfreeze tune` wrote.

    Returns:
        The network, in float32 on the CPU in eval mode, and what is known of it.

    Raises:
        CheckpointError: the folder holds no run, or it is damaged.
    """
    folder = Path(run)
    if not (folder / FACTS_FILE).is_file():
        raise CheckpointError(f"{folder} holds no finished run: there is no {FACTS_FILE}; `unfreeze tune` makes one")
    try:
        facts = decode(RunFacts, loads((folder / FACTS_FILE).read_bytes(), max_bytes=_MOST_FACTS))
        state = safetensors.torch.load(_read_weights(folder / WEIGHTS_FILE, facts.weights_sha256))
        backbone = facts.provenance.backbone
        model = build(backbone)
        network = Network(backbone, model, facts.preprocess, len(facts.labels))
        network.import_state(state)
        network.head.link = facts.link
    except ManifestError as error:
        raise CheckpointError(f"{folder / FACTS_FILE}: {error}") from None
    except CheckpointError:
        raise
    except Exception as error:  # safetensors and load_state_dict raise many kinds on what does not fit
        raise CheckpointError(f"{folder} is damaged: {first_line(error)}; tune again") from error
    return network.eval(), facts


def _read_weights(path: Path, sha256: str) -> bytes:
    if not path.is_file():
        raise CheckpointError(f"{path.parent} is damaged: there is no file {path.name}; tune again")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if sha256 not in ("", found):  # runs of earlier versions have none
        raise CheckpointError(
            f"{path} is not what was tuned: its SHA-256 is {found}, {FACTS_FILE} says {sha256}; copy it anew"
        )
    return content


def _json(document: object) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
