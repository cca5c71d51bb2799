"""Images and models for the other parts, each model in its own repository."""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import onnxruntime

from bench.gpu.networks import PHOTOGRAPH_PX, draw_photographs, random_network
from bench.gpu.part import Part, Setting
from unfreeze.contract.cores import usable_cores
from unfreeze.contract.errors import ModelError, ProofError, first_line
from unfreeze.contract.model.engine import load_tensorrt
from unfreeze.contract.model.manifest import Provenance
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import export_model
from unfreeze.tune.artifacts.checkpoint import LabeledFile, RunFacts, save_run
from unfreeze.tune.data.dataset import TRAIN, VAL, Dataset, read_dataset
from unfreeze.tune.data.images import LabeledImage

_CUDA = "CUDAExecutionProvider"
_PROVEN, _CALIBRATING = 42, 32
_ENGINE_S = 60  # time reserved for building an engine


def measure(part: Part) -> None:
    """Draw images, and export the models of the other parts concurrently."""
    setting = part.setting
    if not setting.images:
        draw_photographs(setting.data, setting.drawn)
        size = " x ".join(map(str, PHOTOGRAPH_PX))
        part.left_out("photographs", f"no --images given; drawn images of {size} pixels are used")
    if setting.device == "cuda" and _CUDA not in onnxruntime.get_available_providers():
        part.left_out("models on cuda, and serving them", f"this ONNX Runtime has no {_CUDA}: see docs/gpu.md")
        return
    dataset = read_dataset(setting.data)
    for backbone in setting.backbones:
        _write_run(backbone, dataset, _run_of(setting, backbone))
    with ProcessPoolExecutor(max(1, usable_cores() // 2), get_context("spawn")) as pool:
        named = setting.names()
        for name, started in [(name, pool.submit(_export, setting, *name)) for name in named]:
            what = " ".join(name)
            with part.trying(f"exporting {what}"):
                try:
                    part.note("exported", model=what, **started.result())
                except ProofError as error:
                    part.left_out(what, first_line(error))
    _add_engine(part)


def _run_of(setting: Setting, backbone: str) -> Path:
    return Path(setting.folder) / "runs" / backbone


def _write_run(backbone: str, dataset: Dataset, run: Path) -> None:
    network, spec = random_network(backbone, len(dataset.labels), dataset.splits[TRAIN])
    facts = RunFacts(
        labels=dataset.labels,
        preprocess=spec,
        temperature=1.0,
        provenance=Provenance(
            backbone=backbone, weights="none", weights_sha256="", cut="head", seed=0, images=0, versions={}
        ),
        metrics={},
        data=str(dataset.root),
        val=_files(dataset.splits[VAL], _PROVEN),
        calibration=_files(dataset.splits[TRAIN], _CALIBRATING),
    )
    run.mkdir(parents=True)
    save_run(run, network, facts, {})


def _files(images: tuple[LabeledImage, ...], most: int) -> tuple[LabeledFile, ...]:
    stride = -(-len(images) // most)
    return tuple(LabeledFile(path=str(one.path.absolute()), label=one.label) for one in images[::stride])


def _export(setting: Setting, backbone: str, precision: str) -> dict[str, float]:
    # int8 changes the answers of random weights more than those of trained ones.
    options = ExportOptions(
        precision=precision,
        target="tensorrt" if setting.device == "cuda" else "auto",
        max_batch=max(setting.batches),
        max_drop=100,
    )
    repository, started = setting.repository(backbone, precision), time.monotonic()
    published = export_model(_run_of(setting, backbone), repository, repository.name, options)
    return {"seconds": time.monotonic() - started, "mb": published.bytes / 1e6}


def _add_engine(part: Part) -> None:
    """Build an engine of the first model only, because it takes long."""
    if part.setting.device != "cuda" or not part.setting.models():
        return
    backbone, precision, _ = part.setting.models()[0]
    what = f"a TensorRT engine of {backbone} {precision}"
    try:
        load_tensorrt("tensorrt")
    except ModelError as error:
        part.left_out(what, first_line(error))
        return
    if part.left_s < _ENGINE_S:
        part.left_out(what, "no time was left to build it")
        return
    with part.trying(what):
        options = ExportOptions(precision=precision, max_batch=max(part.setting.batches), max_drop=100, tensorrt=True)
        repository = part.setting.repository(backbone, precision)
        export_model(_run_of(part.setting, backbone), repository, repository.name, options)
