"""`unfreeze demo`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.table import Table

from unfreeze.console import RESULTS, TerminalReporter, print_json
from unfreeze.demo.options import DemoOptions
from unfreeze.signals import sigterm_as_interrupt

if TYPE_CHECKING:
    from unfreeze.demo.run import DemoResult

_DEFAULTS = DemoOptions()

EXAMPLES = """Examples:

    unfreeze demo
    unfreeze demo wallpaper
    unfreeze demo digits --out /tmp/digits --epochs 3 --json
"""


def demo(
    dataset: Literal["digits", "wallpaper"] = "digits",
    *,
    options: Annotated[DemoOptions, Parameter(name="*")] = _DEFAULTS,
    out: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Run all steps on this machine, without a download: write images, tune, export, serve and query over gRPC.

    "digits" are the 1,797 handwritten digits that ship with scikit-learn. "wallpaper" is the hard case: drawn images
    of the 17 wallpaper groups, the possible symmetries of a repeating pattern in the plane. Both start from the
    built-in weights, which were pretrained on drawn fractals, shapes and textures.

    Args:
        dataset: data set.
        options: size of the demo.
        out: folder for the images, the run and the model repository; by default demo/DATASET.
        json: print the results as JSON to standard output.
    """
    from unfreeze.demo.run import DATASETS, run_demo
    from unfreeze.tune.device.heap import keep_freed_memory

    keep_freed_memory()
    folder = Path("demo", dataset) if out is None else out
    with sigterm_as_interrupt(), TerminalReporter() as reporter:
        result = run_demo(DATASETS[dataset], folder, options, reporter)
    if json:
        print_json(_document(result))
        return
    RESULTS.print(_table(result))
    RESULTS.print(_next_commands(result, folder), markup=False)


def _document(result: "DemoResult") -> dict[str, object]:
    figures = {key: value for key, value in vars(result).items() if key != "published"}
    return figures | {"proof": dataclasses.asdict(result.published.manifest.proof)}


def _recipe(metrics: dict[str, Any]) -> str:
    recipe, cut = metrics["recipe"], metrics["cut"]
    return f"{recipe} blocks" if recipe == cut else f"{recipe} from {cut}"


def _table(result: "DemoResult") -> Table:
    metrics, proof = result.metrics, result.published.manifest.proof
    images, classes, megabytes = metrics["images"], len(metrics["labels"]), result.published.bytes / 1e6
    rows = {
        "images": f"{images['train']:,} training, {images['val']:,} validation, {classes} classes",
        "tune": f"{_recipe(metrics)}: {metrics['trained_parameters']:,} parameters trained",
        "validation accuracy": f"{metrics['val_accuracy']:.3f} (chance {1 / classes:.3f})",
        "export": f"{megabytes:.1f} MB, differs from torch by at most {proof.largest_difference:.1e}",
        "serve": f"{result.requests_per_second:,.0f} requests per second (1 image each, 8 clients)",
        "server and file": f"same label for {result.same_labels} of {result.compared} images, "
        f"scores differ by at most {result.largest_score_difference:.1e}",
        "total": f"{result.seconds:.0f} s",
    }
    table = Table("step", "result", title=f"unfreeze demo {result.dataset}")
    for row in rows.items():
        table.add_row(*row)
    return table


def _next_commands(result: "DemoResult", folder: Path) -> str:
    image = next(path for path in sorted((folder / "images" / "val").rglob("*.*")) if path.is_file())
    return (
        "next, with this model:\n"
        f"  unfreeze predict {image} --file {result.published.path}\n"
        f"  unfreeze serve --repository {folder / 'models'}\n"
        "next, with your own images, one folder per class:\n"
        "  unfreeze tune IMAGES --backbone resnet18 --out run\n"
        "  unfreeze export run --repository models --name NAME\n"
        "  unfreeze serve --repository models\n"
        "  unfreeze predict IMAGE --server localhost:8001"
    )
