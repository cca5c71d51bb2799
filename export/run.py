"""The whole of an export: a run's folder in, a new version in a model repository out."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unfreeze.contract.errors import ModelError, ProofError
from unfreeze.contract.model.embedded import manifest_in
from unfreeze.contract.model.engine import ENGINE_FILE, FACTS_FILE, load_tensorrt
from unfreeze.contract.model.manifest import Manifest, Provenance
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.contract.model.seal import check_seal
from unfreeze.contract.reporting import Reporter, Silent
from unfreeze.export.candidates import Builder, Built, choose
from unfreeze.export.engine import build_engine
from unfreeze.export.golden import golden
from unfreeze.export.graph import Served, with_manifest
from unfreeze.export.options import PRECISIONS, ExportOptions, Precision
from unfreeze.export.prepared import Prepared, prepare_all
from unfreeze.export.prove import check_proof, expect
from unfreeze.export.signing import sign_folder
from unfreeze.tune.artifacts.checkpoint import RunFacts, load_run

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_CANDIDATES_FILE = "candidates.json"
# What another machine's kernels may make of the same graph: in nats, logarithms of probabilities.
_GOLDEN_TOLERANCES: dict[Precision, float] = {"fp32": 0.01, "fp16": 0.1, "int8": 0.5}


@dataclass(frozen=True, kw_only=True)
class Published:
    """A version that was published.

    Args:
        path: of its `model.onnx`.
        name: the model's.
        version: its number.
        bytes: size of `model.onnx`.
        manifest: what it says of itself.
        candidates: what was made, with speeds and verdicts where one was chosen; the published one first.
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
    """Export a tuned network, prove it equal to what was trained, and publish it.

    Args:
        run: the folder that `tune` wrote.
        repository: the model repository's folder, made where it is missing.
        name: the model's name in there.
        options: how to export.
        data: the folder of images that the run learned from, if it has moved.
        reporter: shows progress.

    Returns:
        What was published.

    Raises:
        CheckpointError: the folder holds no run.
        ModelError: an engine was asked for, and TensorRT is not installed.
        ProofError: no graph is what was trained, or no engine can be built of it; nothing was published.
        RepositoryError: the name is no name, or the repository cannot be written.
    """
    options, reporter = options or ExportOptions(), reporter or Silent()
    where = ModelRepository(repository)
    where.check_room(name)
    if options.engine is not None:
        load_tensorrt(options.engine.flavour)  # better now than after minutes of work
    network, facts = load_run(run)
    served = Served(network, facts.temperature, facts.link)
    images = prepare_all(facts.images(data), facts.preprocess, "preparing the validation images", reporter)
    builder = Builder(
        served=served,
        shape=facts.preprocess.shape,
        expected=expect(served, images, options.max_batch, reporter),
        calibration=lambda: _calibration(facts, data, reporter),
        options=options,
        reporter=reporter,
    )
    built = [builder.build(precision) for precision in options.precisions]
    check_proof(built[0].about.proof, options.max_drop)
    if options.chooses:
        built = choose(built, options, facts.preprocess.shape, reporter)
    manifest = _manifest(built, facts, options)
    model = with_manifest(built[0].graph, manifest)
    manifest = _readable(model)
    candidates = tuple(
        asdict(one.about) | {"speeds": [asdict(speed) for speed in one.speeds], "verdict": one.verdict} for one in built
    )
    more = {_CANDIDATES_FILE: _json(candidates)} if options.chooses else {}
    if options.engine is not None:
        engine = build_engine(model, facts.preprocess.shape, options.engine, reporter)
        more |= {ENGINE_FILE: engine.plan, FACTS_FILE: _json(asdict(engine.facts))}
    sign = None if options.sign_key is None else partial(sign_folder, private_key=options.sign_key)
    number = where.publish(name, model, manifest, more, sign)
    return Published(
        path=where.path(name, number),
        name=name,
        version=number,
        bytes=len(model),
        manifest=manifest,
        candidates=candidates,
    )


def _calibration(facts: RunFacts, data: str | os.PathLike[str] | None, reporter: Reporter) -> Prepared:
    images = facts.images(data, calibration=True)
    if not images:
        raise ProofError("the run names no training images to find the ranges of int8 by; tune again")
    return prepare_all(images, facts.preprocess, "preparing images for calibration", reporter)


def _manifest(built: Sequence[Built], facts: RunFacts, options: ExportOptions) -> Manifest:
    published = built[0]
    precision = published.about.precision
    return Manifest(
        labels=facts.labels,
        preprocess=facts.preprocess,
        precision=precision,
        max_batch=options.max_batch,
        metrics=facts.metrics,
        provenance=_provenance(facts),
        proof=published.about.proof,
        golden=golden(published.content, precision, facts.preprocess, facts.labels),
        golden_tolerance=_GOLDEN_TOLERANCES[precision],
        candidates=tuple(sorted((one.about for one in built), key=lambda one: PRECISIONS.index(one.precision))),
        link=facts.link,
        abstain_below=facts.abstain_below,
    )


def _readable(model: bytes) -> Manifest:
    """Read a model as a device would, before anybody has to."""
    try:
        check_seal(model)
        return manifest_in(model)
    except ModelError as error:
        raise ProofError(f"the exported model {error}; nothing was published") from error


def _json(document: object) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode()


def _provenance(facts: RunFacts) -> Provenance:
    versions = facts.provenance.versions | {package: version(package) for package in _PACKAGES}
    return replace(facts.provenance, versions=versions)
