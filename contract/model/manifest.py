"""The manifest: everything needed to use a model, as JSON inside `model.onnx`."""

import dataclasses
import json
import re
import reprlib
from dataclasses import dataclass, field
from typing import Any, Literal

from unfreeze.contract.drift.reference import DriftReference
from unfreeze.contract.errors import ManifestError
from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.contract.model.ood import OutOfDistribution
from unfreeze.contract.model.schema import decode, loads
from unfreeze.contract.model.seal import UNSEALED
from unfreeze.contract.model.upgrade import upgraded_from_2

SCHEMA = "3.1"
_LAST_MINORS = {2: 0, 3: 1}  # by major version: the last minor one whose fields are known
METADATA_KEY = "unfreeze.manifest"
INPUT = "pixels"
OUTPUT = "probabilities"
FEATURES = "features"
ANSWERS = "answers"


@dataclass(frozen=True, kw_only=True)
class Proof:
    """How closely the exported graph agrees with the trained network, measured on the validation images.

    Args:
        images: number of images that were compared.
        batch_sizes: the batch sizes that were compared.
        largest_difference: the largest absolute difference of a probability, 0 to 1.
        tolerance: the largest difference allowed; a model above it is not published.
        same_top1: fraction of the images with the same top-1 label, 0 to 1.
        accuracy: top-1 accuracy of the graph, 0 to 1.
        trained_accuracy: top-1 accuracy of the trained network in torch, 0 to 1.
        score_difference: the largest difference of an out-of-distribution score, as a share of the standard deviation
            of the scores; None without a score, and in models of schema 3.0.
    """

    images: int
    batch_sizes: tuple[int, ...]
    largest_difference: float
    tolerance: float
    same_top1: float
    accuracy: float
    trained_accuracy: float
    score_difference: float | None = None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A graph that was exported from the trained network, published or not.

    Latencies depend on the machine; `candidates.json` next to the model lists them.

    Args:
        precision: "fp32", "fp16" or "int8".
        bytes: size of the graph in bytes.
        kept_in_float: number of layers of an int8 graph that are not quantized, to keep its accuracy.
        proof: how closely it agrees with the trained network.
        finish_epochs: epochs of quantization-aware training; 0 if the graph is only rounded.
    """

    precision: str
    bytes: int
    kept_in_float: int
    proof: Proof
    finish_epochs: int = 0


@dataclass(frozen=True, kw_only=True)
class Golden:
    """A test image and its expected probabilities, to verify the model on any device.

    Args:
        image: the encoded image, in base64.
        pixels_sha256: SHA-256 of the prepared pixels; empty for lossy formats, whose decoders may differ by one level.
        probabilities: expected probabilities, in the order of the labels.
        label: the most probable label.
    """

    image: str
    pixels_sha256: str
    probabilities: tuple[float, ...]
    label: str


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """A teacher whose answers a model was trained on, and whether they made it better.

    Args:
        name: of the teacher: the folder of its run, or its name in a model repository.
        version: of the teacher in a model repository; empty for a run or another file.
        sha256: SHA-256 of the teacher's weights or of its model file.
        temperature: that softened the answers of both.
        weight: of the answers in the loss, 0 to 1; the labels have the rest.
        unlabeled_images: number of images without a label that only the teacher has answered.
        kept: whether the model was trained on the answers; otherwise it was not better with them, and learned from the
            labels alone.
        taught_accuracy: cross-validated on the training images, 0 to 1; None if nothing could be compared.
        taught_standard_error: of this accuracy.
        own_accuracy: of the model without a teacher, on the same images.
        own_standard_error: of that accuracy.
    """

    name: str
    version: str
    sha256: str
    temperature: float
    weight: float
    unlabeled_images: int
    kept: bool
    taught_accuracy: float | None = None
    taught_standard_error: float | None = None
    own_accuracy: float | None = None
    own_standard_error: float | None = None


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a model was made.

    Args:
        backbone: the network's name.
        weights: the pretrained weights: "default", "builtin", "none" or a file's name.
        weights_sha256: SHA-256 of the weights file; empty without one.
        cut: the first trained block; "head" if only the head was trained.
        seed: random seed.
        images: number of training images.
        versions: versions of the packages that were used, by name.
        distillation: the teacher that was tried; None without one. Since schema 3.1.
    """

    backbone: str
    weights: str
    weights_sha256: str
    cut: str
    seed: int
    images: int
    versions: dict[str, str]
    distillation: Distillation | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything needed to use a model.

    The graph's input is `pixels`, uint8 [N, H, W, 3], prepared by `unfreeze.contract.images.preprocess.prepare`. Its
    first output is `probabilities`, float32 [N, C], which sum to 1 over the C labels. Further outputs are `features`,
    float32 [N, F], and `answers`, float32: the probabilities, the score of `ood`, and the projected features, as far as
    there are any.

    Args:
        labels: one label per class, in the order of the probabilities; unique.
        preprocess: how an image becomes `pixels`.
        precision: "fp32", "fp16" or "int8".
        max_batch: the largest batch size that the model is served with, 1 to 4096.
        metrics: metrics on the validation images, by name.
        provenance: how the model was made.
        proof: how closely the graph agrees with the trained network.
        golden: test images and their expected probabilities.
        golden_tolerance: the largest allowed difference of a logarithm of their probabilities on another machine, in
            nats, 0 to 1.
        candidates: all graphs that were exported from the same network, including this one.
        link: how logits become probabilities: "softmax", or "sigmoid" for the sigmoids of the logits, divided by their
            sum.
        abstain_below: predictions whose top-1 probability is below this threshold are marked as unsure, 0 to 1; None
            marks none.
        drift: distributions of the validation images, to compare later images with; None in models of schema 3.0.
        ood: how images unlike the training images are recognized; None if they are not, and in models of schema 3.0.
        features: number of pooled features that the graph returns; 0 if it returns none.
        projected: number of projected features behind the score, whose mean is 0 and whose covariance is 1 on the
            validation images; 0 if it returns none.
        sha256: SHA-256 of the model file, as `unfreeze.contract.model.seal` computes it.
        schema: version of this document, "MAJOR.MINOR".

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
    drift: DriftReference | None = None
    ood: OutOfDistribution | None = None
    features: int = 0
    projected: int = 0
    sha256: str = UNSEALED
    schema: str = field(default=SCHEMA)

    def __post_init__(self) -> None:
        """Validate once, at construction."""
        check_labels(self.labels)
        if not 1 <= self.max_batch <= 4096:  # noqa: PLR2004
            raise ValueError(f"max_batch must be between 1 and 4096, got {self.max_batch}")
        check_abstain_below(self.abstain_below)
        if not 0 <= self.golden_tolerance <= 1:
            raise ValueError(f"golden_tolerance must be between 0 and 1, got {self.golden_tolerance}")
        if re.fullmatch("[0-9a-f]{64}", self.sha256) is None:
            raise ValueError(f"sha256 must have 64 hexadecimal digits in lower case, got {self.sha256!r:.100}")
        for golden in self.golden:
            if len(golden.probabilities) != len(self.labels) or golden.label not in self.labels:
                raise ValueError(
                    f"each golden image must have {len(self.labels)} probabilities, one per label, and a known label"
                )

    @property
    def answer_output(self) -> str:
        """The output that has all that is answered about an image."""
        return OUTPUT if self.answer_width == len(self.labels) else ANSWERS

    @property
    def answer_width(self) -> int:
        """The number of values of an image in that output."""
        return len(self.labels) + (self.ood is not None) + self.projected

    @property
    def outputs(self) -> dict[str, int]:
        """The graph's outputs in their order, with the number of values of an image."""
        added = {FEATURES: self.features} if self.features else {}
        answers = {ANSWERS: self.answer_width} if self.answer_output == ANSWERS else {}
        return {OUTPUT: len(self.labels)} | added | answers

    def to_json(self) -> str:
        """Serialize to JSON; equal manifests give equal text."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Manifest":
        """Parse and validate a manifest of schema 2 or 3.

        Args:
            text: UTF-8 JSON. Unknown fields are an error, except in a later minor version of the schema.

        Returns:
            The manifest; one of schema 2 has its keys renamed, and the current schema.

        Raises:
            ManifestError: malformed (the message ends with the path, like `@ $.preprocess.resize`), or of an unknown
                major version.
        """
        document = loads(text)
        major, minor = _schema_of(document)
        if major == 2:  # noqa: PLR2004
            document = upgraded_from_2(document) | {"schema": SCHEMA}
        return decode(cls, document, ignore_unknown=minor > _LAST_MINORS[major])


def check_labels(labels: tuple[str, ...]) -> None:
    """Reject labels that are ambiguous or cannot be written one per line.

    Raises:
        ValueError: fewer than two labels, a repeated one, an empty one, or one that has a line break or is not valid
            UTF-8.
    """
    if len(labels) < 2:  # noqa: PLR2004
        raise ValueError(f"a classifier needs at least two labels, got {list(labels)}")
    repeated = sorted({label for label in labels if labels.count(label) > 1}) if len(set(labels)) < len(labels) else []
    if repeated:
        raise ValueError(f"labels must be unique, got more than once: {repeated[:5]}")
    unwritable = [label for label in labels if not label.strip() or label.splitlines() != [label]]
    if unwritable:
        raise ValueError(f"labels must not be empty or contain line breaks, got {unwritable[:5]!r}")
    undecodable = [label for label in labels if any("\ud800" <= letter <= "\udfff" for letter in label)]
    if undecodable:
        raise ValueError(f"labels must be valid UTF-8, got {undecodable[:5]!r}")


def check_abstain_below(threshold: float | None) -> None:
    """Reject a threshold that is not a probability.

    Raises:
        ValueError: it is not between 0 and 1.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"abstain_below must be between 0 and 1, or null, got {threshold}")


def _schema_of(document: Any) -> tuple[int, int]:
    """Read the major and the minor version of a document's schema."""
    schema = document.get("schema") if isinstance(document, dict) else None
    found = re.fullmatch(r"(\d{1,9})\.(\d{1,9})", schema) if isinstance(schema, str) else None
    if found is None:
        raise ManifestError(f'expected "MAJOR.MINOR", like "{SCHEMA}", got {reprlib.repr(schema)} @ $.schema')
    if int(found[1]) not in _LAST_MINORS:
        readable = " and ".join(f"{major}.x" for major in _LAST_MINORS)
        raise ManifestError(
            f"the manifest has schema {schema}, and this version of unfreeze reads {readable}: install the version of "
            "unfreeze that exported the model, or export it again @ $.schema"
        )
    return int(found[1]), int(found[2])
