"""Find the best precision of the finalists: int8 where it is faster and as accurate, else fp32."""

import copy
from collections.abc import Mapping
from dataclasses import asdict, replace

from unfreeze.compare.context import CompareContext
from unfreeze.compare.finals import Finalist
from unfreeze.compare.latency import ExportedModel, Served, failure, latency_key, time_models
from unfreeze.compare.loaded import LoadedBackbone
from unfreeze.contract.model.manifest import Candidate
from unfreeze.contract.reporting import Silent
from unfreeze.export.candidates import CandidateBuilder, CandidateGraph
from unfreeze.export.graph import CalibratedNetwork
from unfreeze.export.options import ExportOptions
from unfreeze.export.prepared import PreparedImages, prepare_images
from unfreeze.export.prove import accuracy_drop, compute_reference
from unfreeze.tune.device.precision import CPU

_CALIBRATION_IMAGES = 64
_OPTIONS = ExportOptions(precision="fp32,int8", max_batch=8)


def best_precisions(
    context: CompareContext, finalists: Mapping[str, Finalist], served: Mapping[str, Served]
) -> dict[str, Served]:
    """Export finalists in fp32 and int8, time all graphs alternately, and choose.

    Int8 is taken if it loses no more accuracy than `unfreeze export` accepts, on at most 200 validation images with the
    probe as the head, and is faster at batch sizes 1 and 32. All layers are quantized.

    Args:
        context: state of the comparison.
        finalists: by label.
        served: latency in fp32, by label.

    Returns:
        The best precision with its latency, by label.
    """
    found, models, drops = dict(served), {}, {}
    for label, finalist in finalists.items():
        stored = context.stored.load("precision", _key(context, finalist.backbone))
        if stored is not None:
            found[label] = Served(**stored)
            continue
        try:
            models[label] = _build(context, finalist)
            drops[label] = accuracy_drop(models[label]["int8"].about.proof)
        except Exception as error:  # noqa: BLE001 - quantization of any graph
            models.pop(label, None)
            found[label] = replace(served[label], why=f"int8 failed: {failure(error)}")
    shapes = {label: finalists[label].backbone.network.image_shape for label in models}
    timed = _time(context, models, shapes)
    for label, graphs in models.items():
        found[label] = _chosen(label, graphs, drops[label], timed, served[label])
        context.stored.store("precision", _key(context, finalists[label].backbone), asdict(found[label]))
    return found


def _key(context: CompareContext, backbone: LoadedBackbone) -> dict[str, object]:
    return {**latency_key(backbone), "precision": "fp32,int8", "data": context.sample.digest}


def _build(context: CompareContext, finalist: Finalist) -> dict[str, CandidateGraph]:
    backbone, sample = finalist.backbone, context.sample
    network = copy.deepcopy(backbone.network).to(CPU)
    finalist.fitted_probe().put_into(network.head)
    spec, quiet = backbone.pretrained.spec, Silent()
    calibrated = CalibratedNetwork(network, 1.0, network.head.link)
    images = prepare_images(sample.validation or sample.images[:_CALIBRATION_IMAGES], spec, "", quiet)

    def calibration() -> PreparedImages:
        return prepare_images(sample.images[:_CALIBRATION_IMAGES], spec, "", quiet)

    builder = CandidateBuilder(
        network=calibrated,
        shape=spec.shape,
        reference=compute_reference(calibrated, images, _OPTIONS.max_batch, quiet),
        calibration=calibration,
        options=_OPTIONS,
        reporter=quiet,
        keep_in_float=False,
    )
    advance = context.reporter.track(f"{backbone.choice.label}: quantizing", 1)
    graphs = {precision: builder.build(precision) for precision in _OPTIONS.precisions}
    advance(1)
    return {str(precision): graph for precision, graph in graphs.items()}


def _time(
    context: CompareContext,
    models: Mapping[str, Mapping[str, CandidateGraph]],
    shapes: Mapping[str, tuple[int, int, int]],
) -> dict[tuple[str, str], tuple[float, float]]:
    exported = {
        f"{precision} {label}": ExportedModel(content=graph.content, shape=shapes[label], precision=precision)
        for label, graphs in models.items()
        for precision, graph in graphs.items()
    }
    timed = time_models(exported, context.reporter) if exported else {}
    return {(label, precision): times for key, times in timed.items() for precision, _, label in [key.partition(" ")]}


def _chosen(
    label: str,
    graphs: Mapping[str, CandidateGraph],
    drop: float,
    timed: Mapping[tuple[str, str], tuple[float, float]],
    served: Served,
) -> Served:
    one, many = timed[label, "fp32"], timed[label, "int8"]
    speedup = min(one[0] / many[0], many[1] / one[1])
    is_accurate, is_faster = drop <= _OPTIONS.max_drop, speedup > 1
    precision = "int8" if is_accurate and is_faster else "fp32"
    about: Candidate = graphs[precision].about
    why = f"int8 is {one[0] / many[0]:.1f} and {many[1] / one[1]:.1f} times as fast at batch 1 and 32"
    if not is_accurate:
        why = f"int8 loses {drop:.1f} points of accuracy"
    latency_ms, images_per_second = timed[label, precision]
    return replace(
        served,
        precision=precision,
        latency_ms=latency_ms,
        images_per_second=images_per_second,
        megabytes=about.bytes / 1e6,
        why=why,
    )
