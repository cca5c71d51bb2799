"""Tune with several processes: `torchrun --nproc-per-node 2 -m unfreeze.tune images/ --out run/ --recipe all ...`.

It takes what `unfreeze tune` takes. The images are dealt out to the processes, each of which runs its own through the
frozen blocks and keeps their activations; gradients are added up in every step.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from unfreeze.contract.errors import UnfreezeError
from unfreeze.tune.options import TuneOptions

app = App(name="python -m unfreeze.tune", help=__doc__)
_DEFAULTS = TuneOptions()


class _Lines:
    """Tells what goes on in lines: bars of several processes would overwrite each other."""

    def info(self, text: str) -> None:
        """Tell one thing."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is the command line

    def track(self, what: str, total: int) -> Callable[[int], None]:
        """Tell what begins."""
        self.info(f"{what} ({total})")
        return lambda _: None


@app.default
def run(
    data: Path,
    *,
    out: Path,
    options: Annotated[TuneOptions, Parameter(name="*")] = _DEFAULTS,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    resume: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Tune a pretrained network to labeled images, with all processes that torchrun has started.

    Args:
        data: folder of labeled images, or a CSV file.
        out: folder of the run, made by this command.
        options: how to tune.
        overwrite: replace a run that is in OUT already.
        resume: go on with the unfinished run that is in OUT.
    """
    from unfreeze.tune.device.heap import keep_freed_memory
    from unfreeze.tune.run import fine_tune

    keep_freed_memory()
    metrics = fine_tune(data, out, options, _Lines(), overwrite=overwrite, resume=resume)
    if metrics:
        print(json.dumps(metrics, ensure_ascii=False))  # noqa: T201


if __name__ == "__main__":
    try:
        app()
    except UnfreezeError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
