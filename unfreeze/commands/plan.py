"""`unfreeze plan`."""

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators
from rich.table import Column, Table

from unfreeze.console import RESULTS, TerminalReporter, print_json
from unfreeze.tune.options import TuneOptions

_DEFAULTS = TuneOptions()
_AT_LEAST_TWO = Parameter(validator=validators.Number(gte=2))

EXAMPLES = """Examples:

    unfreeze plan images/ --backbone vgg16
    unfreeze plan --classes 20 --images 5000 --backbone resnet50 --epochs 20 --json
"""


def plan(
    data: Path | None = None,
    *,
    classes: Annotated[int, _AT_LEAST_TWO] = 10,
    images: Annotated[int, _AT_LEAST_TWO] = 1000,
    options: Annotated[TuneOptions, Parameter(name="*")] = _DEFAULTS,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Say what tuning from each cut would cost on this device, before any training, from a short timed run.

    Nothing is downloaded: what a network costs does not depend on its weights.

    Args:
        data: folder of labeled images; without it, --classes and --images count.
        classes: how many, where there is no folder.
        images: to train on, where there is no folder.
        options: as for tuning.
        json: print one JSON list on standard output.
    """
    from unfreeze.tune.cost.plan import plan as run_plan
    from unfreeze.tune.device.heap import keep_freed_memory

    keep_freed_memory()
    with TerminalReporter() as reporter:
        plans = run_plan(options, data=data, classes=classes, images=images, reporter=reporter)
    if json:
        print_json([dataclasses.asdict(one) for one in plans])
        return
    names = ("trained", "GFLOPs", "cache MB", "memory MB", "seconds", "naive")
    table = Table(
        Column("cut", no_wrap=True),
        *(Column(name, justify="right") for name in names),
        title=f"{options.backbone}: {plans[0].parameters / 1e6:.1f} M parameters, "
        f"{plans[0].stock_parameters / 1e6:.1f} M in torchvision's",
    )
    for one in plans:
        table.add_row(
            one.cut,
            f"{one.trained_parameters / 1e6:.2f} M",
            f"{one.frozen_flops / 1e9:.1f} + {one.trained_flops / 1e9:.1f}",
            f"{one.cache_bytes / 1e6:,.0f}",
            f"{one.memory_bytes / 1e6:,.0f}",
            f"{one.seconds:,.0f}",
            f"{one.naive_seconds:,.0f}",
        )
    RESULTS.print(table)
    RESULTS.print(
        f"{plans[0].epochs} epochs, {options.views} views an image. GFLOPs: of one image forward, frozen + trained. "
        "Seconds: predicted for this device.\nNaive: the same without a cache, frozen blocks and decoding anew in every"
        " epoch.",
        markup=False,
    )
