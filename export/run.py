"""The whole of an export: a run's folder in, a new version in a model repository out."""

import os
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import onnx

from contract.errors import ProofError
from contract.manifest import Manifest, Provenance
from contract.options import check_ranges
from contract.reporting import Reporter, Silent
from contract.repository import ModelRepository, check_name
from export.graph import Served, graph_from_network, with_manifest
from export.prove import prove
from tune.checkpoint import RunFacts, load_run

_RANGES = {"tolerance": (0.0, 1.0), "max_batch": (1, 4096)}
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class Published:
    """A version that was published.

    Args:
        path: of its `model.onnx`.
        name: the model's.
        version: its number.
        bytes: size of `model.onnx`.
        manifest: what it says of itself.
    """

    path: Path
    name: str
    version: int
    bytes: int
    manifest: Manifest


def export(
    run: str | os.PathLike[str],
    repository: str | os.PathLike[str],
    name: str,
    *,
    data: str | os.PathLike[str] | None = None,
    tolerance: float = 1e-4,
    max_batch: int = 64,
    reporter: Reporter | None = None,
) -> Published:
    """Export a tuned network, prove it equal to what was trained, and publish it.

    Args:
        run: the folder that `tune` wrote.
        repository: the model repository's folder, made where it is missing.
        name: the model's name in there.
        data: the folder of pictures that the run learned from, if it has moved.
        tolerance: the largest difference of a probability between torch and ONNX Runtime that is let pass.
        max_batch: the largest batch to serve it with.
        reporter: shows progress.

    Returns:
        What was published.

    Raises:
        OptionsError: tolerance or batch are out of their ranges.
        CheckpointError: the folder holds no run.
        ProofError: the exported model is not what was trained; nothing was published.
        RepositoryError: the name is no name, or the repository cannot be written.
    """
    reporter = reporter or Silent()
    check_name(name)
    check_ranges({"tolerance": tolerance, "max_batch": max_batch}, _RANGES)
    network, facts = load_run(run)
    pictures = facts.pictures(data)
    missing = [picture.path for picture in pictures if not picture.path.is_file()]
    if missing:
        raise ProofError(
            f"{len(missing)} of the {len(pictures)} validation pictures are gone, {missing[0]} for one: "
            "the export is proven on them; say where the data are now with --data"
        )
    served = Served(network, facts.temperature, facts.link)
    reporter.say("exporting the graph")
    graph = graph_from_network(served, facts.preprocess.shape)
    proof = prove(graph.SerializeToString(), served, pictures, facts.preprocess, tolerance, reporter)
    manifest = Manifest(
        labels=facts.labels,
        preprocess=facts.preprocess,
        precision="fp32",
        max_batch=max_batch,
        metrics=facts.metrics,
        provenance=_provenance(facts),
        proof=proof,
        link=facts.link,
        abstain_below=facts.abstain_below,
    )
    return _publish(graph, manifest, ModelRepository(repository), name)


def _publish(graph: onnx.ModelProto, manifest: Manifest, repository: ModelRepository, name: str) -> Published:
    model = with_manifest(graph, manifest)
    number = repository.publish(name, model, manifest)
    return Published(path=repository.path(name, number), name=name, version=number, bytes=len(model), manifest=manifest)


def _provenance(facts: RunFacts) -> Provenance:
    versions = facts.provenance.versions | {package: version(package) for package in _PACKAGES}
    return replace(facts.provenance, versions=versions)
