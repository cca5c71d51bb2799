"""`unfreeze demo`."""

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from unfreeze.console import RESULTS, TerminalReporter, print_json
from unfreeze.demo.options import DemoOptions

_DEFAULTS = DemoOptions()

EXAMPLES = """Examples:

    unfreeze demo
    unfreeze demo --out /tmp/demo --train-per-class 200
"""


def demo(
    options: Annotated[DemoOptions, Parameter(name="*")] = _DEFAULTS,
    *,
    out: Path = Path("demo"),
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Go the whole way on this machine alone, without a download: draw, tune, export, serve, ask.

    The images are of the 17 wallpaper groups, the symmetries that a pattern in the plane can have; the backbone was
    pretrained on fractals, shapes and textures and has never seen one.

    Args:
        options: how large it is.
        out: folder that takes the images, the run and the model repository.
        json: print the figures as JSON on standard output.
    """
    from unfreeze.demo.run import run_demo
    from unfreeze.tune.device.heap import keep_freed_memory

    keep_freed_memory()

    with TerminalReporter() as reporter:
        outcome = run_demo(out, options, reporter)
    proof = outcome.published.manifest.proof
    if json:
        figures = {key: value for key, value in vars(outcome).items() if key not in ("metrics", "published")}
        print_json(figures | {"metrics": outcome.metrics, "proof": dataclasses.asdict(proof)})
        return
    images = outcome.metrics["images"]
    table = Table("figure", "value", title="from images to answers")
    table.add_row("images", f"{images['train']:,} to train, {images['val']:,} to validate, 17 classes")
    table.add_row("cut", f"{outcome.metrics['cut']} ({outcome.metrics['trained_parameters']:,} parameters trained)")
    table.add_row("validation accuracy", f"{outcome.metrics['val_accuracy']:.3f} (chance: {1 / 17:.3f})")
    table.add_row("largest torch-to-ONNX difference", f"{proof.largest_difference:.1e}")
    table.add_row("same label, server and file", f"{outcome.same_labels} of {outcome.asked}")
    table.add_row("served requests per second", f"{outcome.requests_per_second:,.0f}")
    table.add_row("seconds, all of it", f"{outcome.seconds:.0f}")
    RESULTS.print(table)
    RESULTS.print(
        "next, with your own images, a folder for each class:\n"
        "  unfreeze tune IMAGES --backbone resnet18 --out run\n"
        "  unfreeze export run --repository models --name NAME\n"
        "  unfreeze serve --repository models\n"
        "  unfreeze predict IMAGE --server localhost:8001",
        markup=False,
    )
