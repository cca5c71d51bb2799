"""Fine-tune with several processes: `torchrun --nproc-per-node 2 -m unfreeze.tune images/ --out run/ --recipe all ...`.

The arguments are those of `unfreeze tune`. The images are distributed over the processes: each one runs its own images
through the frozen blocks and caches their activations. Gradients are summed in every step.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from unfreeze.contract.errors import UnfreezeError
from unfreeze.tune.options import OUTPUT, TuneOptions

app = App(name="python -m unfreeze.tune", help=__doc__)
_DEFAULTS = TuneOptions()
_FLAG = Parameter(negative="", group=OUTPUT)


class _LineReporter:
    """Reports progress in lines, because the progress bars of several processes would overwrite each other."""

    def info(self, text: str) -> None:
        """Print a message."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is the command line

    def track(self, what: str, total: int) -> Callable[[int], None]:
        """Print what starts."""
        self.info(f"{what} ({total})")
        return lambda _: None


@app.default
def run(
    data: Path,
    *,
    out: Annotated[Path, Parameter(group=OUTPUT)],
    options: Annotated[TuneOptions, Parameter(name="*")] = _DEFAULTS,
    overwrite: Annotated[bool, _FLAG] = False,
    resume: Annotated[bool, _FLAG] = False,
) -> None:
    """Fine-tune a pretrained network on labeled images with all processes that torchrun has started.

    Args:
        data: folder of labeled images, or a CSV file.
        out: folder of the run, which is created.
        options: options of the run.
        overwrite: replace a run in OUT, finished or not.
        resume: continue the unfinished run in OUT.
    """
    from unfreeze.tune.device.heap import keep_freed_memory
    from unfreeze.tune.run import fine_tune

    keep_freed_memory()
    metrics = fine_tune(data, out, options, _LineReporter(), overwrite=overwrite, resume=resume)
    if metrics:
        print(json.dumps(metrics, ensure_ascii=False))  # noqa: T201


if __name__ == "__main__":
    try:
        app()
    except UnfreezeError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
