"""Export backbones and time them alternately in ONNX Runtime on this machine."""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median

import numpy as np

from unfreeze.compare.context import CompareContext
from unfreeze.compare.loaded import LoadedBackbone
from unfreeze.compare.machine import describe_machine, describe_versions
from unfreeze.contract.reporting import Reporter
from unfreeze.export.graph import CalibratedNetwork, onnx_from_network
from unfreeze.export.session import Session
from unfreeze.export.speed import time_alternately
from unfreeze.tune.backbones.link import SOFTMAX
from unfreeze.tune.device.precision import CPU

LARGE_BATCH = 32
_ROUNDS = {1: 21, LARGE_BATCH: 5}


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """A graph to time.

    Args:
        content: of the ONNX file.
        shape: height, width and channels of a prepared image.
        precision: "fp32" or "int8".
    """

    content: bytes
    shape: tuple[int, int, int]
    precision: str = "fp32"


@dataclass(frozen=True, kw_only=True)
class Served:
    """Size and latency of an exported model.

    Args:
        precision: "fp32" or "int8".
        latency_ms: median latency of one image, without decoding and resizing it.
        images_per_second: median throughput of batches of 32.
        megabytes: size of the ONNX file.
        parameters: of the network with its head.
        why: why this precision was taken; empty where only fp32 was tried.
    """

    precision: str
    latency_ms: float
    images_per_second: float
    megabytes: float
    parameters: int
    why: str = ""


def export_float(backbone: LoadedBackbone) -> ExportedModel:
    """Export a backbone in fp32, with an untrained head, which is as fast as a trained one.

    Raises:
        Exception: torch's exporter does not support the network; its errors have no common base class.
    """
    network = copy.deepcopy(backbone.network).to(CPU)
    shape = network.image_shape
    graph = onnx_from_network(CalibratedNetwork(network, 1.0, SOFTMAX), shape)
    return ExportedModel(content=graph.SerializeToString(deterministic=True), shape=shape)


def time_models(models: Mapping[str, ExportedModel], reporter: Reporter) -> dict[str, tuple[float, float]]:
    """Time models alternately.

    Args:
        models: by name.
        reporter: shows progress.

    Returns:
        Milliseconds of one image and images per second in batches of 32: medians, by name.

    Raises:
        ProofError: ONNX Runtime cannot load or run a model.
    """
    sessions = {name: Session(model.content, model.precision) for name, model in models.items()}
    advance = reporter.track("timing the exported models", sum(_ROUNDS.values()))
    medians: dict[int, dict[str, float]] = {}
    for batch, rounds in _ROUNDS.items():
        rng = np.random.default_rng(batch)
        runs = {
            name: partial(session.run, rng.integers(0, 256, (batch, *models[name].shape), np.uint8))
            for name, session in sessions.items()
        }
        seconds = time_alternately(runs, rounds, advance)
        medians[batch] = {name: median(own) for name, own in seconds.items()}
    return {name: (1000 * medians[1][name], LARGE_BATCH / medians[LARGE_BATCH][name]) for name in models}


def float_latencies(
    context: CompareContext, backbones: Mapping[str, LoadedBackbone], failed: dict[str, str]
) -> dict[str, Served]:
    """Export and time backbones in fp32, or read what an earlier comparison on this machine measured.

    Args:
        context: state of the comparison.
        backbones: by label.
        failed: receives the reasons why backbones cannot be exported.
    """
    found: dict[str, Served] = {}
    models: dict[str, ExportedModel] = {}
    advance = context.reporter.track("exporting the backbones", len(backbones))
    for label, backbone in backbones.items():
        stored = context.stored.load("latency", latency_key(backbone))
        if stored is not None:
            found[label] = Served(**stored)
        else:
            _export_into(models, label, backbone, failed)
        advance(1)
    for label, (latency_ms, images_per_second) in (time_models(models, context.reporter) if models else {}).items():
        found[label] = Served(
            precision="fp32",
            latency_ms=latency_ms,
            images_per_second=images_per_second,
            megabytes=len(models[label].content) / 1e6,
            parameters=sum(parameter.numel() for parameter in backbones[label].network.parameters()),
        )
        context.stored.store("latency", latency_key(backbones[label]), asdict(found[label]))
    return found


def latency_key(backbone: LoadedBackbone) -> dict[str, object]:
    """Return what the latency of a backbone in fp32 depends on."""
    return {**backbone.identity, "machine": describe_machine(), "versions": describe_versions(), "precision": "fp32"}


def _export_into(
    models: dict[str, ExportedModel], label: str, backbone: LoadedBackbone, failed: dict[str, str]
) -> None:
    """Export one backbone and run it once; note the reason if that fails."""
    try:
        model = export_float(backbone)
        Session(model.content, model.precision).run(np.zeros((1, *model.shape), np.uint8))
    except Exception as error:  # noqa: BLE001 - any network is traced and exported here
        failed[label] = failure(error)
    else:
        models[label] = model


def failure(error: Exception) -> str:
    """Return the reason of a failure for the table, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".removeprefix("WeightsError: ")
