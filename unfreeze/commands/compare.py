"""`unfreeze compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.table import Column, Table
from rich.text import Text

from unfreeze.console import RESULTS, TerminalReporter, print_json
from unfreeze.pages.libraries import ADVICE
from unfreeze.signals import sigterm_as_interrupt
from unfreeze.tune.options import AUTO_RANGE, BACKBONE, DATA, DEFAULT_STORE_GB, HARDWARE, OUTPUT, RECIPE

if TYPE_CHECKING:
    from unfreeze.compare.result import Comparison

_FLAG = Parameter(negative="", group=OUTPUT)
_backbone, _data, _hardware, _recipe = (Parameter(group=group) for group in (BACKBONE, DATA, HARDWARE, RECIPE))

EXAMPLES = """Examples:

    unfreeze compare images/
    unfreeze compare images/ --backbones edge --budget-ms 20
    unfreeze compare images/ --backbones resnet18,timm/vit_tiny_patch16_224,mobilenet_v3_small=builtin
    unfreeze compare images/ --backbones squeezenet1_0=squeezenet1_0.pth,resnet18=resnet18.pth --json
    unfreeze tune images/ --out run/ --backbone auto --backbones edge --budget-ms 20
"""


def compare(
    data: Path,
    *,
    backbones: Annotated[str, _backbone] = "small",
    budget_ms: Annotated[float | None, _backbone] = None,
    image_size: Annotated[int | None, _data] = None,
    images: Annotated[int, _data] = 4000,
    val_fraction: Annotated[float, _data] = 0.2,
    path_column: Annotated[str | None, _data] = None,
    label_column: Annotated[str | None, _data] = None,
    split_column: Annotated[str | None, _data] = None,
    drop_contradictions: Annotated[bool, Parameter(group=DATA, negative="")] = False,
    split_folders: Annotated[Literal["auto", "none"], _data] = "auto",
    deep_range: Annotated[str, _data] = AUTO_RANGE,
    metric: Annotated[Literal["auto", "accuracy", "balanced"], _recipe] = "auto",
    class_weights: Annotated[Literal["none", "balanced"], _recipe] = "none",
    seed: Annotated[int, _recipe] = 0,
    device: Annotated[Literal["auto", "cpu", "cuda"], _hardware] = "auto",
    cache_gb: Annotated[float, _hardware] = 8.0,
    store_gb: Annotated[float, _hardware] = DEFAULT_STORE_GB,
    out: Annotated[Path, Parameter(group=OUTPUT)] = Path("compare"),
    fresh: Annotated[bool, _FLAG] = False,
    json: Annotated[bool, _FLAG] = False,
) -> None:
    """Compare backbones on labeled images and on this machine: accuracy against latency, and a recommendation.

    Accuracy is cross-validated on the training images: of a linear classifier on frozen features, and for up to three
    of the best also after a short training of the last blocks. Latency is that of the exported model in ONNX Runtime on
    the CPU, in int8 where that is faster and as accurate. Many backbones are first compared on few images. The folder
    OUT receives compare.json and, with unfreeze[report], the plot compare.html. A second run reuses what the first one
    computed.

    Args:
        data: folder with one subfolder per class, optionally inside train, val and test folders; or a CSV file with a
            column of image paths, one of labels and, optionally, one of splits.
        backbones: "edge" (phones and single-board computers), "small" (CPUs) or "server"; or a comma-separated list of
            NAME or NAME=WEIGHTS, as for --backbone and --weights of `unfreeze tune`.
        budget_ms: largest acceptable latency of one image in milliseconds, without decoding and resizing it.
        image_size: side of the square that all networks see, in pixels. By default that of their weights.
        images: largest number of training images to compare on.
        val_fraction: share of the training images to validate on when there is no val split, 0.01 to 0.9.
        path_column: column of the image paths in a CSV file.
        label_column: column of the labels in a CSV file.
        split_column: column of the splits in a CSV file.
        drop_contradictions: leave out images that a CSV file lists with more than one label or split.
        split_folders: "auto" uses folders named train, val and test as splits if there is one named train; "none" uses
            every folder as a class.
        deep_range: values of gray images with more than 8 bits that become black and white, as for `unfreeze tune`.
        metric: what backbones are compared by, "accuracy" or "balanced" accuracy, as for `unfreeze tune`.
        class_weights: "balanced" gives every class the same total weight.
        seed: random seed.
        device: where features are computed: "auto", "cpu" or "cuda".
        cache_gb: memory limit of cached activations in GB.
        store_gb: size limit of the feature store in GB, as for `unfreeze tune`.
        out: folder for compare.json and compare.html, which are replaced.
        fresh: compute and time everything again, also what earlier comparisons stored.
        json: print the result as JSON to standard output.
    """
    from unfreeze.compare.files import write_comparison
    from unfreeze.compare.options import CompareOptions
    from unfreeze.compare.run import compare_backbones
    from unfreeze.tune.device.heap import keep_freed_memory
    from unfreeze.tune.options import TuneOptions

    options = CompareOptions(backbones=backbones, budget_ms=budget_ms, images=images, fresh=fresh)
    tuning = TuneOptions(
        image_size=image_size,
        val_fraction=val_fraction,
        path_column=path_column,
        label_column=label_column,
        split_column=split_column,
        drop_contradictions=drop_contradictions,
        split_folders=split_folders,
        deep_range=deep_range,
        metric=metric,
        class_weights=class_weights,
        seed=seed,
        device=device,
        cache_gb=cache_gb,
        store_gb=store_gb,
    )
    keep_freed_memory()
    with sigterm_as_interrupt(), TerminalReporter() as reporter:
        comparison = compare_backbones(data, options, tuning, reporter)
    written = write_comparison(comparison, out)
    if json:
        print_json(comparison.document())
        return
    _print(comparison, written)


def _print(comparison: "Comparison", written: tuple[Path, ...]) -> None:
    from unfreeze.compare.cells import summary

    RESULTS.print(_table(comparison))
    RESULTS.print(summary(comparison), markup=False)
    RESULTS.print(Text(comparison.reason, style="bold"))
    RESULTS.print(f"written: {', '.join(map(str, written))}", markup=False)
    if len(written) == 1:
        RESULTS.print(f"for a plot in compare.html: {ADVICE}", markup=False)
    if comparison.recommended is not None:
        backbone, weights = comparison.recommended
        given = "" if weights == "default" else f" --weights {weights}"
        RESULTS.print(f"next: unfreeze tune {comparison.data} --out run --backbone {backbone}{given}", markup=False)


def _table(comparison: "Comparison") -> Table:
    """Build the table for a terminal, without the columns that are empty."""
    from unfreeze.compare.cells import COLUMNS, cells

    rows = [cells(row) for row in comparison.rows]
    shown = [index for index in range(len(COLUMNS)) if any(row[index] for row in rows)]
    columns = [
        Column(COLUMNS[index].title, justify="right" if COLUMNS[index].number else "left", overflow="fold")
        for index in shown
    ]
    table = Table(*columns, title=f"backbones for {comparison.data}")
    for row, texts in zip(comparison.rows, rows, strict=True):
        style = "bold" if row.backbone == comparison.recommended_row else None
        table.add_row(*(Text(texts[index]) for index in shown), style=style)
    return table
