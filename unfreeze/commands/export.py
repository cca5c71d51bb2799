"""The command `unfreeze export`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.table import Table

from unfreeze.console import RESULTS, TerminalReporter, print_json
from unfreeze.contract.counted import counted
from unfreeze.track.tracker import TrackerName, check_trackers, track_model

if TYPE_CHECKING:
    from unfreeze.export.run import Published

EXAMPLES = """Examples:

    unfreeze export run/ --repository models/ --name flowers
    unfreeze export run/ --repository models/ --name flowers --precision auto
    unfreeze export run/ --repository models/ --name flowers --track mlflow
    unfreeze export run/ --repository models/ --name flowers --precision int8 --target arm
    unfreeze export run/ --repository models/ --name flowers --precision fp16 --tensorrt --compute-capability SM89,SM120
"""


def export(
    run: Path,
    *,
    repository: Path,
    name: str,
    precision: str = "fp32",
    target: Literal["auto", "cpu", "arm", "tensorrt"] = "auto",
    max_drop: float = 0.5,
    finish_epochs: int = 5,
    data: Path | None = None,
    tolerance: float = 1e-4,
    max_batch: int = 64,
    serving_batch: int = 8,
    features: Annotated[bool, Parameter(negative="")] = False,
    tensorrt: Annotated[bool, Parameter(negative="")] = False,
    compute_capability: str = "",
    sign_key: Path | None = None,
    track: Annotated[tuple[TrackerName, ...], Parameter(negative="")] = (),
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Export a run as one ONNX file, compare it with the trained network, and publish it as a new version.

    Fails without publishing anything if the file does not match the trained network: a probability of the fp32 graph
    differs by more than --tolerance, or fp16 or int8 loses more accuracy than --max-drop.

    Args:
        run: folder written by `unfreeze tune`.
        repository: model repository; created if missing.
        name: name of the model in the repository.
        precision: "fp32", "fp16", "int8", "auto" for all three, or a comma-separated list. If there are several,
            the fastest on this machine that loses at most --max-drop is published; others than fp32 only if faster.
        target: kernels to quantize for; "auto" selects those of this machine.
        max_drop: largest acceptable loss of top-1 accuracy on the validation images, in percentage points.
        finish_epochs: epochs of quantization-aware training of the tuned layers where int8 loses more than --max-drop;
            the result is used only if it loses less. 0 for none.
        data: folder of the images, if it has moved since tuning.
        tolerance: largest acceptable difference of a probability between torch and the fp32 graph.
        max_batch: largest batch size to serve.
        serving_batch: typical batch size; candidates are timed at this size and at 1.
        features: add an output `features` to the graph: what the head's linear layer gets, for search by similarity and
            for monitoring. `unfreeze.load_model` returns it.
        tensorrt: also build a TensorRT engine next to the model.
        compute_capability: build the engine with TensorRT for RTX, which needs no GPU, for these GPUs, such as
            SM89,SM120. By default the engine is built with TensorRT for the GPU of this machine.
        sign_key: PEM file of an elliptic-curve key to sign the version's folder; needs unfreeze[signing].
        track: also log the model where the run is logged: to MLflow as an ONNX model that is registered under NAME, to
            Weights & Biases as an artifact.
        json: print the result as JSON to standard output.
    """
    from unfreeze.export.options import ExportOptions
    from unfreeze.export.run import export_model

    options = ExportOptions(
        precision=precision,
        target=target,
        max_drop=max_drop,
        finish_epochs=finish_epochs,
        tolerance=tolerance,
        max_batch=max_batch,
        serving_batch=serving_batch,
        features=features,
        tensorrt=tensorrt,
        compute_capability=compute_capability,
        sign_key=sign_key,
    )
    check_trackers(track)
    with TerminalReporter() as reporter:
        published = export_model(run, repository, name, options, data=data, reporter=reporter)
    if json:
        print_json(_document(published))
        track_model(track, run, published)
        return
    if len(published.candidates) > 1:
        RESULTS.print(_table(published))
    proof = published.manifest.proof
    RESULTS.print(
        f"published {published.path} ({published.bytes / 1e6:.1f} MB, {published.manifest.precision}); "
        f"on {proof.images} validation {'image' if proof.images == 1 else 'images'}: accuracy {proof.accuracy:.1%} "
        f"(torch: {proof.trained_accuracy:.1%}), largest difference of a probability "
        f"{proof.largest_difference:.1e} at batch sizes {', '.join(map(str, proof.batch_sizes))}",
        markup=False,
    )
    for place in track_model(track, run, published):
        RESULTS.print(f"logged: {place}", markup=False)
    RESULTS.print(f"next: unfreeze serve --repository {repository}", markup=False)


def _document(published: "Published") -> dict[str, object]:
    return {
        "path": str(published.path),
        "name": published.name,
        "version": published.version,
        "bytes": published.bytes,
        "sha256": published.manifest.sha256,
        "precision": published.manifest.precision,
        "proof": dataclasses.asdict(published.manifest.proof),
        "candidates": published.candidates,
    }


def _table(published: "Published") -> Table:
    speeds = published.candidates[0]["speeds"]
    times = [f"ms at batch {speed['batch']}" for speed in speeds]
    columns = ["precision", "MB", "top-1", "same top-1", "largest difference", *times]
    table = Table(title="candidates: accuracy and agreement with torch, median latency")
    table.add_column(columns[0])
    for name in columns[1:]:
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for one in published.candidates:
        proof = one["proof"]
        kept = f" ({one['kept_in_float']} nodes in float)" if one["kept_in_float"] else ""
        kept += f" (finished, {counted(one['finish_epochs'], 'epoch')})" if one["finish_epochs"] else ""
        figures = [f"{one['bytes'] / 1e6:.1f}", f"{proof['accuracy']:.4f}", f"{proof['same_top1']:.4f}"]
        times = [f"{speed['p50_ms']:.1f}" for speed in one["speeds"]]
        table.add_row(one["precision"] + kept, *figures, f"{proof['largest_difference']:.0e}", *times, one["verdict"])
    return table
