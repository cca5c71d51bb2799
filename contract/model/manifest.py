"""The manifest: everything needed to use a model, as JSON inside `model.onnx`."""

import dataclasses
import json
import re
import reprlib
from dataclasses import dataclass, field
from typing import Any, Literal

from unfreeze.contract.errors import ManifestError
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.contract.model.schema import decode, loads
from unfreeze.contract.model.seal import UNSEALED

SCHEMA = "2.0"
METADATA_KEY = "unfreeze.manifest"
INPUT = "pixels"
OUTPUT = "probabilities"


@dataclass(frozen=True, kw_only=True)
class Proof:
    """How equal the exported graph was found to the trained network, on the validation images.

    Args:
        images: how many both saw.
        batch_sizes: the batch sizes that were compared.
        largest_difference: between any two probabilities, 0 to 1.
        tolerance: above this, nothing is published.
        same_top1: share of the images with the same first label, 0 to 1.
        accuracy: share of the images whose first label is right, 0 to 1.
        trained_accuracy: the same of the trained network, in torch.
    """

    images: int
    batch_sizes: tuple[int, ...]
    largest_difference: float
    tolerance: float
    same_top1: float
    accuracy: float
    trained_accuracy: float


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A graph that was made of the trained network, published or not.

    How fast each is depends on the machine: `candidates.json`, beside the model, says that.

    Args:
        precision: of its arithmetic: "fp32", "fp16" or "int8".
        bytes: size of its graph.
        kept_in_float: of an int8 graph, how many layers are not quantized because they would lose too much.
        proof: how equal it is to what was trained.
    """

    precision: str
    bytes: int
    kept_in_float: int
    proof: Proof


@dataclass(frozen=True, kw_only=True)
class Golden:
    """An image of our own and the answer to it, by which any device can be tried years later.

    Args:
        image: encoded, in base64.
        pixels_sha256: of the prepared image; empty where the format is lossy, whose decoders may differ by a step.
        probabilities: in the order of the labels.
        label: the most probable one.
    """

    image: str
    pixels_sha256: str
    probabilities: tuple[float, ...]
    label: str


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a model comes from.

    Args:
        backbone: torchvision's name of the network.
        weights: what it started from: "default", "builtin", "none" or a file's name.
        weights_sha256: of that file; empty where there was none.
        cut: the first block that was trained; "head" when only the head was.
        seed: of everything random.
        images: how many trained it.
        versions: of the packages that made it, by name.
    """

    backbone: str
    weights: str
    weights_sha256: str
    cut: str
    seed: int
    images: int
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything needed to use a model.

    The graph takes `pixels`, uint8 [N, H, W, 3], prepared by `unfreeze.contract.images.preprocess.prepare`, and gives
    `probabilities`, float32 [N, C], which sum to 1 over the C labels.

    Args:
        labels: one per class, in the order of the probabilities; unique.
        preprocess: how an image becomes `pixels`.
        precision: of the graph's arithmetic: "fp32", "fp16" or "int8".
        max_batch: the largest batch the model is served with.
        metrics: what was measured on the validation images, by name.
        provenance: where the model comes from.
        proof: how equal it is to what was trained.
        golden: images and the answers to them.
        golden_tolerance: how far apart the logarithms of their probabilities may be on another machine, in nats.
        candidates: what else was made of the same network, this one among them.
        link: what the graph ends in: "softmax", or "sigmoid" for a sigmoid of each logit, divided by their sum.
        abstain_below: an answer whose first probability is below this is unsure; None where nothing was asked for.
        sha256: of the file that carries this document, as `unfreeze.contract.model.seal` tells.
        schema: "MAJOR.MINOR" of this document.

    Raises:
        ValueError: fewer than two labels, a repeated label, a label with a line break, or a number out of its range.
    """

    labels: tuple[str, ...]
    preprocess: PreprocessSpec
    precision: Literal["fp32", "fp16", "int8"]
    max_batch: int
    metrics: dict[str, float]
    provenance: Provenance
    proof: Proof
    golden: tuple[Golden, ...] = ()
    golden_tolerance: float = 0.01
    candidates: tuple[Candidate, ...] = ()
    link: Literal["softmax", "sigmoid"] = "softmax"
    abstain_below: float | None = None
    sha256: str = UNSEALED
    schema: str = field(default=SCHEMA)

    def __post_init__(self) -> None:
        """Validate once, where it is built."""
        check_labels(self.labels)
        if not 1 <= self.max_batch <= 4096:  # noqa: PLR2004
            raise ValueError(f"max_batch goes from 1 to 4096, found {self.max_batch}")
        check_abstain_below(self.abstain_below)
        if not 0 <= self.golden_tolerance <= 1:
            raise ValueError(f"golden_tolerance goes from 0 to 1, found {self.golden_tolerance}")
        if re.fullmatch("[0-9a-f]{64}", self.sha256) is None:
            raise ValueError(f"sha256 has 64 digits from 0 to f, found {self.sha256!r:.100}")
        for golden in self.golden:
            if len(golden.probabilities) != len(self.labels) or golden.label not in self.labels:
                raise ValueError(
                    f"a golden answer has a probability for each of the {len(self.labels)} labels, and names one"
                )

    def to_json(self) -> str:
        """Write the manifest as JSON; equal manifests give equal bytes."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Manifest":
        """Read and validate a manifest.

        Args:
            text: UTF-8 JSON. Unknown fields are an error, except where its schema has a later minor version.

        Returns:
            The manifest.

        Raises:
            ManifestError: malformed (the message ends in the place, like `@ $.preprocess.resize`), or of a major
                version that this program does not know.
        """
        document = loads(text)
        return decode(cls, document, ignore_unknown=_is_later_minor(document))


def check_labels(labels: tuple[str, ...]) -> None:
    """Refuse labels that could not be told apart, or not be written one per line.

    Raises:
        ValueError: fewer than two, a repeated one, an empty one, or one with a line break or of no text in UTF-8.
    """
    if len(labels) < 2:  # noqa: PLR2004
        raise ValueError(f"a classifier needs at least two labels, found {list(labels)}")
    repeated = sorted({label for label in labels if labels.count(label) > 1}) if len(set(labels)) < len(labels) else []
    if repeated:
        raise ValueError(f"labels are repeated: {repeated[:5]}")
    unwritable = [label for label in labels if not label.strip() or label.splitlines() != [label]]
    if unwritable:
        raise ValueError(f"labels must not be empty nor hold line breaks, found {unwritable[:5]!r}")
    undecoded = [label for label in labels if any("\ud800" <= letter <= "\udfff" for letter in label)]
    if undecoded:
        raise ValueError(f"labels must be text in UTF-8, found {undecoded[:5]!r}")


def check_abstain_below(confidence: float | None) -> None:
    """Refuse a confidence that no probability is compared with.

    Raises:
        ValueError: it is not between 0 and 1.
    """
    if confidence is not None and not 0 <= confidence <= 1:
        raise ValueError(f"abstain_below goes from 0 to 1, or is null, found {confidence}")


def _is_later_minor(document: Any) -> bool:
    schema = document.get("schema") if isinstance(document, dict) else None
    found = re.fullmatch(r"(\d{1,9})\.(\d{1,9})", schema) if isinstance(schema, str) else None
    if found is None:
        raise ManifestError(f'expected "MAJOR.MINOR", like "{SCHEMA}", found {reprlib.repr(schema)} @ $.schema')
    major, minor = (int(part) for part in SCHEMA.split("."))
    if int(found[1]) != major:
        raise ManifestError(
            f"the manifest follows schema {schema}; this version of unfreeze reads {major}.x: "
            "install the version of unfreeze that wrote it, or export the model again @ $.schema"
        )
    return int(found[2]) > minor
