"""`unfreeze info`."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from unfreeze.console import RESULTS, print_json
from unfreeze.contract.errors import ModelError, first_line
from unfreeze.contract.model.manifest import Manifest
from unfreeze.contract.model.repository import find_model

EXAMPLES = """Examples:

    unfreeze info models/flowers
    unfreeze info model.onnx --json
"""


def info(model: Path, *, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Show what a model says of itself: labels, preparation, precision, figures, where it comes from, and its size.

    Sizes by type of layer need the `onnx` package, which comes with unfreeze[tune].

    Args:
        model: a `model.onnx`, or the folder of its version or of the model, whose newest version is taken.
        json: print JSON on standard output instead of tables.
    """
    from unfreeze.serve.runtimes.onnx_cpu import read_checked

    path = find_model(model)
    _, manifest = read_checked(path)
    layers = _layers(path)
    if json:
        document = dataclasses.asdict(manifest)
        del document["golden"]
        print_json({"path": str(path), "bytes": path.stat().st_size, **document, "layers": layers})
        return
    RESULTS.print(_facts(path, manifest))
    if layers is None:
        RESULTS.print("sizes by type of layer need the onnx package: pip install 'unfreeze[tune]'", markup=False)
        return
    table = Table("layers", "how many", "MB of weights")
    for name, (count, size) in layers.items():
        table.add_row(Text(name), str(count), f"{size / 1e6:.2f}")
    RESULTS.print(table)


def _facts(path: Path, manifest: Manifest) -> Table:
    spec, origin, proof = manifest.preprocess, manifest.provenance, manifest.proof
    labels = ", ".join(manifest.labels[:20]) + (", ..." if len(manifest.labels) > 20 else "")  # noqa: PLR2004
    rows: dict[str, Any] = {
        "file": f"{path} ({path.stat().st_size / 1e6:.1f} MB)",
        "SHA-256": manifest.sha256,
        f"{len(manifest.labels)} labels": labels,
        "precision": manifest.precision,
        "images": f"resized to {_size(spec.resize)} ({spec.interpolation}), cropped to {_size(spec.crop)}",
        "normalized by": f"mean {spec.mean}, standard deviation {spec.std}, inside the graph",
        "ends in": manifest.link,
        "unsure below": "-" if manifest.abstain_below is None else f"{manifest.abstain_below:g}",
        "largest batch": manifest.max_batch,
        **{name.replace("_", " "): f"{value:.4f}" for name, value in manifest.metrics.items()},
        "proven on": f"{proof.images} validation images: {proof.same_top1:.2%} have the same first label as in "
        f"training, and no probability differs by more than {proof.largest_difference:.1e}",
        "backbone": f"{origin.backbone} from {origin.weights} weights, trained from {origin.cut} on",
        "trained on": f"{origin.images:,} images, seed {origin.seed}",
        "made with": ", ".join(f"{name} {number}" for name, number in origin.versions.items()),
    }
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(Text(name), Text(str(value)))
    return table


def _size(sizes: tuple[int, ...]) -> str:
    return f"{sizes[0]} on the shorter side" if len(sizes) == 1 else f"{sizes[0]} x {sizes[1]}"


def _layers(path: Path) -> dict[str, tuple[int, int]] | None:
    """Count nodes and bytes of weights by type of layer; a weight counts for the first node that takes it."""
    try:
        import onnx
    except ModuleNotFoundError:
        return None
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's, which is no part of what onnx promises
        raise ModelError(f"{path} is no ONNX model that can be read: {first_line(error)}") from error
    sizes = {tensor.name: tensor.ByteSize() for tensor in graph.initializer}
    counts, weights = Counter(node.op_type for node in graph.node), Counter[str]()
    for node in graph.node:
        weights[node.op_type] += sum(sizes.pop(name, 0) for name in node.input)
    order = sorted(counts, key=lambda name: (-weights[name], name))
    return {name: (counts[name], weights[name]) for name in order}
