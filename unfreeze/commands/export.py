"""`unfreeze export`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.table import Table

from unfreeze.console import RESULTS, TerminalReporter, print_json

if TYPE_CHECKING:
    from unfreeze.export.run import Published

EXAMPLES = """Examples:

    unfreeze export run/ --repository models/ --name flowers
    unfreeze export run/ --repository models/ --name flowers --precision auto
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
    data: Path | None = None,
    tolerance: float = 1e-4,
    max_batch: int = 64,
    serving_batch: int = 8,
    tensorrt: Annotated[bool, Parameter(negative="")] = False,
    compute_capability: str = "",
    sign_key: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Export a run as one ONNX file, prove it equal to what was trained, and publish it as a new version.

    Nothing is published, and the exit code is not 0, where the file is not what was trained: a probability of the
    fp32 graph differs by more than the tolerance, or fp16 or int8 loses more of the accuracy than is allowed.

    Args:
        run: folder that `unfreeze tune` wrote.
        repository: folder of models, made where it is missing.
        name: of the model in there.
        precision: fp32, fp16 or int8; or "auto", or some of them with commas in between: the fastest on this machine
            that loses no more than --max-drop, and only where it is faster than fp32.
        target: whose kernels int8 is made for; "auto" is this machine's.
        max_drop: points of top-1 accuracy on the validation images that may be lost.
        data: folder of images that the run learned from, if it has moved.
        tolerance: largest difference of a probability between torch and the fp32 graph that is let pass.
        max_batch: largest batch to serve it with.
        serving_batch: a usual batch, at which candidates are timed besides single images.
        tensorrt: also build an engine beside the model.
        compute_capability: build it with TensorRT for RTX, which needs no GPU, for these, with commas in between;
            without it, with TensorRT for the GPU in this machine.
        sign_key: elliptic-curve key in PEM to sign the version's folder with; needs unfreeze[signing].
        json: print the outcome as JSON on standard output.
    """
    from unfreeze.export.options import ExportOptions
    from unfreeze.export.run import export_model

    options = ExportOptions(
        precision=precision,
        target=target,
        max_drop=max_drop,
        tolerance=tolerance,
        max_batch=max_batch,
        serving_batch=serving_batch,
        tensorrt=tensorrt,
        compute_capability=compute_capability,
        sign_key=sign_key,
    )
    with TerminalReporter() as reporter:
        published = export_model(run, repository, name, options, data=data, reporter=reporter)
    if json:
        print_json(_document(published))
        return
    if len(published.candidates) > 1:
        RESULTS.print(_table(published))
    proof = published.manifest.proof
    RESULTS.print(
        f"published {published.path} ({published.bytes / 1e6:.1f} MB, {published.manifest.precision}): on "
        f"{proof.images} validation images, in batches of {', '.join(map(str, proof.batch_sizes))}, no probability "
        f"differs from torch's by more than {proof.largest_difference:.1e}, and {proof.accuracy:.1%} are right "
        f"(torch: {proof.trained_accuracy:.1%})",
        markup=False,
    )
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
    columns = ["precision", "MB", "top-1", "as torch", "differs by", *(f"ms, {speed['batch']}" for speed in speeds)]
    table = Table(title=f"the median time is of batches of {_sizes(speeds)}")
    table.add_column(columns[0])
    for name in columns[1:]:
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for one in published.candidates:
        proof = one["proof"]
        kept = f" ({one['kept_in_float']} in float)" if one["kept_in_float"] else ""
        figures = [f"{one['bytes'] / 1e6:.1f}", f"{proof['accuracy']:.4f}", f"{proof['same_top1']:.4f}"]
        times = [f"{speed['p50_ms']:.1f}" for speed in one["speeds"]]
        table.add_row(one["precision"] + kept, *figures, f"{proof['largest_difference']:.0e}", *times, one["verdict"])
    return table


def _sizes(speeds: list[dict[str, float]]) -> str:
    return " and ".join(str(speed["batch"]) for speed in speeds)
