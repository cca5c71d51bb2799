"""Export a run's folder to a new version in a model repository."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from unfreeze.contract.arrays import Float32
from unfreeze.contract.drift.reference import OOD_SCORE, SIZE, DriftReference, measure, reference_of, sample, side_of
from unfreeze.contract.errors import ImageError, ModelError, ProofError
from unfreeze.contract.images.opening import image_size
from unfreeze.contract.model.engine import ENGINE_FILE, FACTS_FILE, load_tensorrt
from unfreeze.contract.model.manifest import Manifest, Provenance
from unfreeze.contract.model.onnx_metadata import read_manifest
from unfreeze.contract.model.ood import OutOfDistribution
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.contract.model.seal import check_seal
from unfreeze.contract.reporting import Reporter, Silent
from unfreeze.export.added_outputs import AddedOutputs, find_head
from unfreeze.export.candidates import CandidateBuilder, CandidateGraph, choose
from unfreeze.export.engine import build_engine
from unfreeze.export.finish.finishing import Finishing, trained_weights
from unfreeze.export.golden import make_golden
from unfreeze.export.graph import CalibratedNetwork, with_manifest
from unfreeze.export.model_card import CARD_FILE, card_markdown
from unfreeze.export.options import PRECISIONS, ExportOptions, Precision
from unfreeze.export.prepared import PreparedImages, prepare_images
from unfreeze.export.projection import with_projection
from unfreeze.export.prove import Reference, check_proof, compute_reference
from unfreeze.export.signing import sign_folder
from unfreeze.tune.artifacts.checkpoint import METRICS_FILE, RunFacts, load_run, read_metrics
from unfreeze.tune.artifacts.score import load_score
from unfreeze.tune.data.images import LabeledImage
from unfreeze.tune.ood.threshold import threshold_of

_CHUNK = 256  # images
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_CANDIDATES_FILE = "candidates.json"
# Accepted differences of log probabilities, in nats, between this machine's kernels and another machine's.
_GOLDEN_TOLERANCES: dict[Precision, float] = {"fp32": 0.01, "fp16": 0.1, "int8": 0.5}


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published version.

    Args:
        path: of `model.onnx`.
        name: of the model.
        version: number of the version.
        bytes: size of `model.onnx`.
        manifest: stored in `model.onnx`.
        candidates: the graphs that were built, the published one first; with latencies and verdicts where one of
            several was chosen.
    """

    path: Path
    name: str
    version: int
    bytes: int
    manifest: Manifest
    candidates: tuple[dict[str, Any], ...]


def export_model(
    run: str | os.PathLike[str],
    repository: str | os.PathLike[str],
    name: str,
    options: ExportOptions | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
    reporter: Reporter | None = None,
) -> Published:
    """Export a tuned network, check it against the trained network, and publish it.

    Args:
        run: the folder that `unfreeze tune` wrote.
        repository: the folder of the model repository; created if missing.
        name: of the model in the repository.
        options: options of the export.
        data: the folder or CSV file of the images that the run was tuned on, if it has moved.
        reporter: shows progress.

    Returns:
        The published version.

    Raises:
        CheckpointError: the folder contains no complete run.
        ModelError: an engine is requested and TensorRT is not installed.
        ProofError: the graph differs too much from the trained network, or no engine can be built; nothing is
            published.
        RepositoryError: the name is not valid, or the repository is not writable.
    """
    options, reporter = options or ExportOptions(), reporter or Silent()
    destination = ModelRepository(repository)
    destination.check_writable(name)
    if options.engine is not None:
        load_tensorrt(options.engine.flavor)  # fail early
    network, facts = load_run(run)
    calibrated = CalibratedNetwork(network, facts.temperature, facts.link)
    added = AddedOutputs(score=load_score(run, facts), features=options.features)
    images = prepare_images(facts.images(data), facts.preprocess, "preparing the validation images", reporter)
    builder = CandidateBuilder(
        network=calibrated,
        shape=facts.preprocess.shape,
        reference=compute_reference(calibrated, images, options.max_batch, reporter, added.score),
        calibration=lambda: _calibration(facts, data, reporter),
        options=options,
        reporter=reporter,
        added=added,
        finishing=Finishing(
            images=lambda: prepare_images(
                facts.training_images(data), facts.preprocess, "preparing images to finish int8", reporter
            ),
            trained=trained_weights(network, facts.provenance.cut),
            seed=facts.provenance.seed,
        ),
    )
    built = [builder.build(precision) for precision in options.precisions]
    check_proof(built[0].about.proof, options.max_drop, is_exact=built[0].about.precision == "fp32")
    if options.chooses:
        built = choose(built, options, facts.preprocess.shape, reporter)
    projected = 0
    if options.features:
        built[0], projection = with_projection(built[0], builder.reference.images, reporter)
        projected = projection.count
    manifest = replace(
        _manifest(built, facts, options),
        drift=_drift_reference(builder.reference, _sizes(facts.images(data)), built[0].scores),
        ood=_thresholds(facts.ood, built[0]),
        features=find_head(built[0].graph).width if options.features else 0,
        projected=projected,
    )
    model = with_manifest(built[0].graph, manifest)
    manifest = _readable(model)
    candidates = tuple(
        asdict(one.about) | {"speeds": [asdict(speed) for speed in one.speeds], "verdict": one.verdict} for one in built
    )
    metrics = read_metrics(run) if (Path(run) / METRICS_FILE).exists() else {}  # not needed for the model itself
    extra_files = {CARD_FILE: card_markdown(name, manifest, metrics, asdict(facts.provenance))}
    if options.chooses:
        extra_files[_CANDIDATES_FILE] = _json(candidates)
    if options.engine is not None:
        engine = build_engine(model, facts.preprocess.shape, options.engine, reporter, manifest.answer_output)
        extra_files |= {ENGINE_FILE: engine.plan, FACTS_FILE: _json(asdict(engine.facts))}
    sign = None if options.sign_key is None else partial(sign_folder, private_key=options.sign_key)
    number = destination.publish(name, model, manifest, extra_files, sign)
    return Published(
        path=destination.path(name, number),
        name=name,
        version=number,
        bytes=len(model),
        manifest=manifest,
        candidates=candidates,
    )


def _calibration(facts: RunFacts, data: str | os.PathLike[str] | None, reporter: Reporter) -> PreparedImages:
    images = facts.images(data, calibration=True)
    if not images:
        raise ProofError("the run lists no training images, which int8 needs for calibration; tune again")
    return prepare_images(images, facts.preprocess, "preparing images for calibration", reporter)


def _manifest(built: Sequence[CandidateGraph], facts: RunFacts, options: ExportOptions) -> Manifest:
    published = built[0]
    precision = cast("Precision", published.about.precision)
    return Manifest(
        labels=facts.labels,
        preprocess=facts.preprocess,
        precision=precision,
        max_batch=options.max_batch,
        metrics=facts.metrics,
        provenance=_provenance(facts),
        proof=published.about.proof,
        golden=make_golden(published.content, precision, facts.preprocess, facts.labels),
        golden_tolerance=_GOLDEN_TOLERANCES[precision],
        candidates=tuple(sorted((one.about for one in built), key=lambda one: PRECISIONS.index(one.precision))),
        link=cast("Literal['softmax', 'sigmoid']", facts.link),
        abstain_below=facts.abstain_below,
    )


def _thresholds(ood: OutOfDistribution | None, published: CandidateGraph) -> OutOfDistribution | None:
    """Choose the threshold again where the graph's scores are not those of the trained network.

    Rounded activations are farther from the training images' features than exact ones.
    """
    if ood is None or published.scores is None or published.about.precision == "fp32":
        return ood
    found = threshold_of(published.scores, ood.false_alarms)
    return replace(
        ood,
        threshold=found.value,
        false_alarms_low=found.low,
        false_alarms_high=found.high,
        images=found.images,
    )


def _drift_reference(
    reference: Reference, sizes: Sequence[tuple[int, int]], scores: Float32[np.ndarray, " n"] | None
) -> DriftReference:
    """Measure the validation images, a few at a time: their pixels may not fit in memory."""
    pixels, probabilities = reference.images.pixels, reference.probabilities
    chunks = range(0, len(pixels), _CHUNK)
    measured = [measure(sample(pixels[at : at + _CHUNK]), probabilities[at : at + _CHUNK]) for at in chunks]
    values = {name: np.concatenate([chunk[name] for chunk in measured]) for name in measured[0]}
    values[SIZE] = np.array([side_of(size) for size in sizes], np.float64)
    if scores is not None:
        values[OOD_SCORE] = scores.astype(np.float64)
    return reference_of(values, probabilities.shape[1])


def _sizes(images: Sequence[LabeledImage]) -> list[tuple[int, int]]:
    """Read the sizes of the images that can be read, from their headers."""
    sizes = []
    for image in images:
        with suppress(ImageError):
            sizes.append(image_size(image.path.read_bytes()))
    return sizes


def _readable(model: bytes) -> Manifest:
    """Check the seal and read the manifest, as a server or a device would."""
    try:
        check_seal(model)
        return read_manifest(model)
    except ModelError as error:
        raise ProofError(f"the exported model {error}; nothing was published") from error


def _json(document: object) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode()


def _provenance(facts: RunFacts) -> Provenance:
    versions = facts.provenance.versions | {package: version(package) for package in _PACKAGES}
    return replace(facts.provenance, versions=versions)
