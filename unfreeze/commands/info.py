"""The command `unfreeze info`."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from unfreeze.console import RESULTS, print_json
from unfreeze.contract.errors import ModelError, first_line
from unfreeze.contract.model.manifest import Distillation, Manifest
from unfreeze.contract.model.ood import OutOfDistribution
from unfreeze.contract.model.repository import find_model

EXAMPLES = """Examples:

    unfreeze info models/flowers
    unfreeze info model.onnx --json
"""


def info(model: Path, *, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Show a model's metadata: labels, preprocessing, precision, metrics, provenance and size.

    The table of layers needs the `onnx` package, which is part of unfreeze[tune].

    Args:
        model: a `model.onnx`, the folder of a version, or the folder of a model, for its newest version.
        json: print JSON to standard output instead of tables.
    """
    from unfreeze.contract.model.model_file import read_model

    path = find_model(model)
    manifest = read_model(path).manifest
    layers = _layers(path)
    if json:
        document = dataclasses.asdict(manifest)
        del document["golden"]
        print_json({"path": str(path), "bytes": path.stat().st_size, **document, "layers": layers})
        return
    RESULTS.print(_metadata_table(path, manifest))
    if layers is None:
        RESULTS.print("the table of layers needs the onnx package: pip install 'unfreeze[tune]'", markup=False)
        return
    table = Table("layer type", "count", "weights (MB)")
    for name, (count, size) in layers.items():
        table.add_row(Text(name), str(count), f"{size / 1e6:.2f}")
    RESULTS.print(table)


def _metadata_table(path: Path, manifest: Manifest) -> Table:
    spec, origin, proof = manifest.preprocess, manifest.provenance, manifest.proof
    labels = ", ".join(manifest.labels[:20]) + (", ..." if len(manifest.labels) > 20 else "")  # noqa: PLR2004
    rows: dict[str, Any] = {
        "file": f"{path} ({path.stat().st_size / 1e6:.1f} MB)",
        "SHA-256": manifest.sha256,
        f"labels ({len(manifest.labels)})": labels,
        "precision": manifest.precision,
        "preprocessing": f"resized to {_size(spec.resize)} ({spec.interpolation}), cropped to {_size(spec.crop)}",
        "normalization": f"mean {spec.mean}, standard deviation {spec.std} (in the graph)",
        "output": manifest.link,
        "confidence threshold": "none" if manifest.abstain_below is None else f"{manifest.abstain_below:g}",
        "out of distribution": _foreign(manifest.ood),
        "features": manifest.features or "none",
        "largest batch": manifest.max_batch,
        **{name.replace("_", " "): f"{value:.4f}" for name, value in manifest.metrics.items()},
        "export check": f"validation images: {proof.images}, of which {proof.same_top1:.2%} have the same top-1 label "
        f"as in training, largest probability difference {proof.largest_difference:.1e}",
        "backbone": f"{origin.backbone}, {origin.weights} weights, fine-tuned from {origin.cut}",
        "training images": f"{origin.images:,}, seed {origin.seed}",
        **({"teacher": _teacher(origin.distillation)} if origin.distillation else {}),
        "created with": ", ".join(f"{name} {number}" for name, number in origin.versions.items()),
    }
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(Text(name), Text(str(value)))
    return table


def _foreign(ood: OutOfDistribution | None) -> str:
    if ood is None:
        return "not recognized"
    rates = f"{ood.false_alarms_low:.1%} to {ood.false_alarms_high:.1%} false alarms ({ood.images:,} validation images)"
    auroc = "" if ood.auroc is None else f", AUROC {ood.auroc:.3f} on classes that were left out"
    return f"{ood.method} above {ood.threshold:.4g}: {rates}{auroc}"


def _teacher(found: Distillation) -> str:
    verb = "its answers were trained on" if found.kept else "tried, and not better than the labels alone"
    setting = f"temperature {found.temperature:g}, weight {found.weight:g}"
    name = f"{found.name}{f' version {found.version}' if found.version else ''}, SHA-256 {found.sha256}"
    return f"{name}: {verb}; {setting}, {found.unlabeled_images:,} images without labels"


def _size(sizes: tuple[int, ...]) -> str:
    return f"{sizes[0]} on the shorter side" if len(sizes) == 1 else f"{sizes[0]} x {sizes[1]}"


def _layers(path: Path) -> dict[str, tuple[int, int]] | None:
    """Count nodes and bytes of weights by layer type; a shared weight counts for the first node that uses it."""
    try:
        import onnx
    except ModuleNotFoundError:
        return None
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's errors, which onnx does not document
        raise ModelError(f"{path} is not a valid ONNX model: {first_line(error)}") from error
    sizes = {tensor.name: tensor.ByteSize() for tensor in graph.initializer}
    counts, weights = Counter(node.op_type for node in graph.node), Counter[str]()
    for node in graph.node:
        weights[node.op_type] += sum(sizes.pop(name, 0) for name in node.input)
    order = sorted(counts, key=lambda name: (-weights[name], name))
    return {name: (counts[name], weights[name]) for name in order}
