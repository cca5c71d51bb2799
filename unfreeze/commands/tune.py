"""`unfreeze tune`."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from unfreeze.console import REMARKS, RESULTS, TerminalReporter, print_json
from unfreeze.tune.options import TuneOptions

_DEFAULTS = TuneOptions()

EXAMPLES = """Examples:

    unfreeze tune images/ --out run/
    unfreeze tune labels.csv --out run/ --abstain-precision 0.99 --strict
    unfreeze tune images/ --backbone resnet18 --recipe last-blocks --cut layer4 --epochs 20 --out run/
    unfreeze tune images/ --backbone squeezenet1_0 --weights squeezenet1_0.pth --out run/ --json
    unfreeze tune images/ --out run/ --resume      # go on after Ctrl-C, a crash or a full disk
"""


def tune(
    data: Path,
    *,
    out: Path,
    options: Annotated[TuneOptions, Parameter(name="*")] = _DEFAULTS,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    resume: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Tune a pretrained network to labeled images.

    DATA is a folder that has a folder per class, with or without train, val and test folders on top; or a CSV file with
    the columns path, label and, perhaps, split. The run's folder OUT takes the weights (model.safetensors), what export
    needs (run.json), all figures (metrics.json), and those of every epoch (epochs.jsonl, and tensorboard/). Several
    GPUs: torchrun --nproc-per-node N -m unfreeze.tune, with the same arguments.

    Args:
        data: folder of labeled images, or a CSV file.
        out: folder of the run, made by this command.
        options: how to tune.
        overwrite: replace a run that is in OUT already, finished or not.
        resume: go on with the unfinished run in OUT; it ends in the weights that it would have ended in.
        json: print the metrics as JSON on standard output.
    """
    from unfreeze.tune.device.heap import keep_freed_memory
    from unfreeze.tune.run import fine_tune

    keep_freed_memory()
    with _resumable(out), TerminalReporter() as reporter:
        metrics = fine_tune(data, out, options, reporter, overwrite=overwrite, resume=resume)
    if json:
        print_json(metrics)
        return
    RESULTS.print(_table(metrics))
    for item in metrics["skipped"]:
        RESULTS.print(f"skipped {item['path']}: {item['reason']}", markup=False)
    RESULTS.print(f"{metrics['reason']}", markup=False)
    RESULTS.print(f"next: unfreeze export {out} --repository models --name NAME", markup=False)


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """Let SIGTERM stop tuning as Ctrl-C does, and say how to go on where there is anything to go on with."""
    from unfreeze.tune.artifacts.resume import Unfinished

    def stop(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        if Unfinished(out).exists():
            REMARKS.print(f"stopped; the same command with --resume goes on in {out}", markup=False)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _table(metrics: dict) -> Table:
    table = Table("figure", "value", title=f"{metrics['backbone']}: {metrics['recipe']} from {metrics['cut']}")
    images = ", ".join(f"{count:,} {split}" for split, count in metrics["images"].items())
    table.add_row("images", f"{images}; {len(metrics['skipped'])} files skipped")
    table.add_row("labels", f"{len(metrics['labels'])}")
    for depth in metrics["survey"]:
        table.add_row(f"frozen features at {depth['cut']}", f"{depth['accuracy']:.3f} ± {depth['standard_error']:.3f}")
    for score in metrics["candidates"]:
        rate = f" from {score['cut']} at rate {score['learning_rate']:g}" if score["learning_rate"] else ""
        table.add_row(
            f"cross-validated, {score['recipe']}{rate}", f"{score['accuracy']:.3f} ± {score['standard_error']:.3f}"
        )
    table.add_row("validation accuracy", f"{metrics['val_accuracy']:.4f}")
    table.add_row("of the probe alone", f"{metrics['probe_val_accuracy']:.4f}")
    if "test_accuracy" in metrics:
        table.add_row("test accuracy", f"{metrics['test_accuracy']:.4f}")
    error = metrics["calibration_error"]
    table.add_row("calibration error", f"{error['after']:.3f} ({error['before']:.3f} before the temperature)")
    if metrics["abstain"]:
        table.add_row("to be right often enough", _abstaining(metrics["abstain"]))
    worst = min(metrics["per_class"], key=lambda label: metrics["per_class"][label]["recall"])
    found = metrics["per_class"][worst]
    table.add_row("hardest label", Text(f"{worst}: recall {found['recall']:.2f}, precision {found['precision']:.2f}"))
    table.add_row("trained parameters", f"{metrics['trained_parameters']:,} of {metrics['parameters']:,}")
    table.add_row("seconds", f"{metrics['seconds']:.1f} ({metrics['device']}, {metrics['precision']})")
    return table


def _abstaining(abstain: dict) -> str:
    if abstain["threshold"] is None:
        return abstain["message"]
    answered = f"{abstain['answered']:.0%} answered, {abstain['precision']:.3f} of them right"
    return f"abstain below {abstain['threshold']:.3f}: {answered}"
