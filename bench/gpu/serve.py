"""Throughput and latency of a real server of each model, and where the time goes."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from bench.gpu.decode import images_per_second
from bench.gpu.load import Generators
from bench.gpu.machine import mean_percent, sampled_utilization
from bench.gpu.part import Part
from bench.gpu.raw import opened
from bench.perf_analyzer import drive
from unfreeze.contract.cores import usable_cores
from unfreeze.contract.images.preprocess import prepare
from unfreeze.contract.model.manifest import INPUT, Manifest
from unfreeze.contract.model.model_file import read_model
from unfreeze.contract.model.repository import ENCODED_SUFFIX
from unfreeze.demo.serving import serving
from unfreeze.protos import open_inference_pb2 as pb
from unfreeze.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from unfreeze.serve.protocol.model_infer import ENCODED_INPUT
from unfreeze.tune.data.dataset import TRAIN, read_dataset

KINDS = ("pixels", "jpeg")
_IMAGES = 64
_PERF_ANALYZER, _LEAST_MS = "perf_analyzer", 500
_MOST_PROCESSES = 8
_START_S, _WARM_SHARE = 8.0, 0.3


@dataclass(frozen=True, kw_only=True)
class _Model:
    """A served model.

    Args:
        label: display name.
        name: name on the server.
        path: path of its file.
    """

    label: str
    name: str
    path: Path


def measure(part: Part) -> None:
    """Load a server of each model."""
    if shutil.which(_PERF_ANALYZER) is None:
        part.left_out("perf_analyzer", "it is not installed")
    encoded = [one.path.read_bytes() for one in read_dataset(part.setting.data).splits[TRAIN][:_IMAGES]]
    found = part.setting.models()
    models = [_Model(label=f"{one[0]} {one[1]}", name=one[2].parents[1].name, path=one[2]) for one in found]
    if not models or not _runs_here(part, models[0]):
        return
    for number, model in enumerate(models):
        what, count = f"{model.label}, served", len(KINDS) * len(part.setting.concurrency)
        seconds = part.each_s((len(models) - number) * count, _START_S / count) / (1 + _WARM_SHARE)
        if seconds <= 0:
            part.left_out(what, "no time was left")
            continue
        with part.trying(what):
            manifest = read_model(model.path).manifest
            _decode_limit(part, model, manifest, encoded, seconds)
            _serve(part, model, _requests(part, model, manifest, encoded), seconds)


def _runs_here(part: Part, model: _Model) -> bool:
    with opened(part, "serving", model.path, part.setting.device) as (runtime, _):
        return runtime is not None


def _decode_limit(part: Part, model: _Model, manifest: Manifest, encoded: Sequence[bytes], seconds: float) -> None:
    per_s = images_per_second(encoded, manifest.preprocess, seconds)
    part.note("decode", model=model.label, processes=usable_cores(), per_s=per_s)


def _requests(part: Part, model: _Model, manifest: Manifest, encoded: Sequence[bytes]) -> Path:
    """Serialize one image a request, for the load generators and for perf_analyzer."""
    folder = Path(part.setting.folder) / "requests" / model.name
    folder.mkdir(parents=True)
    tensor = pb.ModelInferRequest.InferInputTensor
    for number, data in enumerate(encoded):
        pixels = prepare(data, manifest.preprocess)[None]
        inputs = {
            "pixels": (model.name, tensor(name=INPUT, datatype="UINT8", shape=pixels.shape), pixels.tobytes()),
            "jpeg": (
                model.name + ENCODED_SUFFIX,
                tensor(name=ENCODED_INPUT, datatype="BYTES", shape=[1, 1]),
                len(data).to_bytes(4, "little") + data,
            ),
        }
        for kind, (name, described, raw) in inputs.items():
            request = pb.ModelInferRequest(model_name=name, inputs=[described], raw_input_contents=[raw])
            (folder / f"{kind}-{number:03}.bin").write_bytes(request.SerializeToString())
    return folder


def _serve(part: Part, model: _Model, requests: Path, seconds: float) -> None:
    program = shutil.which(_PERF_ANALYZER)
    processes = min(_MOST_PROCESSES, max(2, usable_cores() // 2))
    flags = ("--device", part.setting.device, "--poll-s", "0")
    with serving(model.path.parents[2], *flags) as target, Generators(target, requests, processes) as generators:
        for kind in KINDS:
            for concurrency in part.setting.concurrency:
                _measure_load(part, model, kind, concurrency, (target, generators, seconds))
        if program is not None:
            busiest = max(part.setting.concurrency)
            figures = drive(program, target, model.name, busiest, max(_LEAST_MS, round(1000 * seconds)))
            part.note("witnessed", model=model.label, concurrency=busiest, **figures)


def _measure_load(
    part: Part, model: _Model, kind: str, concurrency: int, load_of: tuple[str, Generators, float]
) -> None:
    target, generators, seconds = load_of
    name = model.name + ENCODED_SUFFIX * (kind == "jpeg")
    before = _statistics(target, name)
    with sampled_utilization(part.setting.device) as percents:
        load = generators.run(kind, concurrency, _WARM_SHARE * seconds, seconds)
    part.note(
        "served",
        model=model.label,
        input=kind,
        concurrency=concurrency,
        per_s=load.per_s,
        p50_ms=load.percentile_ms(50),
        p99_ms=load.percentile_ms(99),
        failed=load.failed,
        gpu_percent=mean_percent(percents),
        **_stage_times(before, _statistics(target, name)),
    )


def _statistics(target: str, name: str) -> pb.ModelStatistics:
    with grpc.insecure_channel(target) as channel:
        request = pb.ModelStatisticsRequest(name=name)
        return GRPCInferenceServiceStub(channel).ModelStatistics(request).model_stats[0]


def _stage_times(before: pb.ModelStatistics, after: pb.ModelStatistics) -> dict[str, float]:
    """Return means between two readings: milliseconds a request by stage, and images a batch."""

    def mean_ms(stage: str) -> float:
        first, last = (getattr(one.inference_stats, stage) for one in (before, after))
        return (last.ns - first.ns) / max(1, last.count - first.count) / 1e6

    images = after.inference_count - before.inference_count
    batches = max(1, after.execution_count - before.execution_count)
    stages = {"queue_ms": "queue", "decode_ms": "compute_input", "infer_ms": "compute_infer"}
    return {name: mean_ms(stage) for name, stage in stages.items()} | {"mean_batch": images / batches}
