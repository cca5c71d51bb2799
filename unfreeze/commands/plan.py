"""`unfreeze plan`."""

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators
from rich.table import Column, Table

from unfreeze.console import RESULTS, TerminalReporter, print_json
from unfreeze.contract.counted import counted
from unfreeze.tune.options import DATA, OUTPUT, TuneOptions

_DEFAULTS = TuneOptions()
_AT_LEAST_TWO = Parameter(validator=validators.Number(gte=2), group=DATA)

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
    json: Annotated[bool, Parameter(negative="", group=OUTPUT)] = False,
) -> None:
    """Estimate, before training, what fine-tuning from each depth costs on this device.

    The estimate is made from a short timed run. No weights are downloaded, because they do not change the cost.

    Args:
        data: folder of labeled images, or a CSV file; without it, --classes and --images are used.
        classes: number of classes if there is no DATA.
        images: number of training images if there is no DATA.
        options: options of the run to plan.
        json: print a JSON list to standard output.
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
        f"{plans[0].stock_parameters / 1e6:.1f} M with the original classifier",
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
        f"{counted(plans[0].epochs, 'epoch')}, {counted(options.views, 'view')} per image. "
        "trained: parameters. GFLOPs: forward pass of one image, frozen + trained blocks.\n"
        "seconds: predicted duration on this device. naive: without a cache, decoding images and running frozen blocks "
        "again in every epoch.",
        markup=False,
    )
