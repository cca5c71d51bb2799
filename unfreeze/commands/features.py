"""`unfreeze features`."""

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unfreeze.console import RESULTS, TerminalReporter, print_json
from unfreeze.contract.counted import counted
from unfreeze.contract.errors import OptionsError
from unfreeze.signals import sigterm_as_interrupt
from unfreeze.tune.options import HARDWARE, OUTPUT, TuneOptions

_DEFAULTS = TuneOptions()

EXAMPLES = """Examples:

    unfreeze features images/ --backbone resnet50
    unfreeze features images/ --backbone resnet50 --ray auto --store-gb 100
    unfreeze tune images/ --backbone resnet50 --recipe probe --out run/     # reads what was stored
"""


def features(
    data: Path,
    *,
    options: Annotated[TuneOptions, Parameter(name="*")] = _DEFAULTS,
    ray: Annotated[str | None, Parameter(group=HARDWARE)] = None,
    json: Annotated[bool, Parameter(negative="", group=OUTPUT)] = False,
) -> None:
    """Fill the feature store for a backbone, on this machine or on a Ray cluster.

    A later `unfreeze tune` with the same options and the recipe probe, one-vs-rest or svm computes no features: it
    reads them, and its results are the same bits. What is stored already is not computed again, so that an interrupted
    command continues when it is run again.

    Args:
        data: folder with one subfolder per class, or a CSV file, as for `unfreeze tune`. With --ray, all machines must
            see the images under the same path.
        options: options of the later run. Those of data, backbone and precision matter; those of training have no
            effect.
        ray: compute on a Ray cluster: "auto" (the one that runs on this machine, or a new one of its cores), or the
            ADDRESS of one. Needs unfreeze[ray].
        json: print JSON to standard output.

    Raises:
        OptionsError: --backbone auto is given.
    """
    from unfreeze.batch.features.fill import fill_features
    from unfreeze.tune.backbones.sources import AUTO
    from unfreeze.tune.device.heap import keep_freed_memory

    if options.backbone == AUTO:
        raise OptionsError(
            "--backbone auto compares backbones; name one, such as the one that `unfreeze compare` finds"
        )
    keep_freed_memory()
    with sigterm_as_interrupt(), TerminalReporter() as reporter:
        filled = fill_features(data, options, reporter, ray)
    if json:
        print_json(dataclasses.asdict(filled))
        return
    skipped = f"; {counted(filled.skipped, 'file')} skipped" if filled.skipped else ""
    found = counted(filled.images, "image")
    RESULTS.print(f"{filled.folder}: features of {found}, {filled.computed:,} computed now{skipped}", markup=False)
