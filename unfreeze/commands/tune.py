"""`unfreeze tune`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from tune.options import TuneOptions
from unfreeze.console import RESULTS, TerminalReporter, print_json

_DEFAULTS = TuneOptions()

EXAMPLES = """Examples:

    unfreeze tune pictures/ --out run/
    unfreeze tune pictures/ --backbone resnet18 --cut layer4 --epochs 20 --out run/
    unfreeze tune pictures/ --backbone squeezenet1_0 --weights squeezenet1_0.pth --out run/ --json
"""


def tune(
    data: Path,
    *,
    out: Path,
    options: Annotated[TuneOptions, Parameter(name="*")] = _DEFAULTS,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Tune a pretrained network to a folder of labelled pictures.

    DATA has a folder per class, with or without train, val and test folders on top. The run's folder OUT takes the
    weights (model.safetensors), what export needs (run.json) and all figures (metrics.json).

    Args:
        data: folder of labelled pictures.
        out: folder of the run, made by this command.
        options: how to tune.
        overwrite: replace a run that is in OUT already.
        json: print the metrics as JSON on standard output.
    """
    from tune.run import tune as run_tune

    with TerminalReporter() as reporter:
        metrics = run_tune(data, out, options, reporter, overwrite=overwrite)
    if json:
        print_json(metrics)
        return
    RESULTS.print(_table(metrics))
    for item in metrics["skipped"]:
        RESULTS.print(f"skipped {item['path']}: {item['reason']}", markup=False)
    RESULTS.print(f"next: unfreeze export {out} --repository models --name NAME", markup=False)


def _table(metrics: dict) -> Table:
    table = Table("figure", "value", title=f"{metrics['backbone']}, tuned from {metrics['cut']}")
    pictures = ", ".join(f"{count:,} {split}" for split, count in metrics["pictures"].items())
    table.add_row("pictures", f"{pictures}; {len(metrics['skipped'])} files skipped")
    table.add_row("labels", f"{len(metrics['labels'])}")
    for score in metrics["cut_scores"]:
        table.add_row(
            f"cross-validated, {score['cut']} at rate {score['learning_rate']:g}",
            f"{score['accuracy']:.3f} ± {score['standard_error']:.3f}",
        )
    table.add_row("validation accuracy", f"{metrics['val_accuracy']:.4f}")
    table.add_row("of the probe alone", f"{metrics['probe_val_accuracy']:.4f}")
    if "test_accuracy" in metrics:
        table.add_row("test accuracy", f"{metrics['test_accuracy']:.4f}")
    error = metrics["calibration_error"]
    table.add_row("calibration error", f"{error['after']:.3f} ({error['before']:.3f} before the temperature)")
    worst = min(metrics["per_class"], key=lambda label: metrics["per_class"][label]["recall"])
    found = metrics["per_class"][worst]
    table.add_row("hardest label", Text(f"{worst}: recall {found['recall']:.2f}, precision {found['precision']:.2f}"))
    table.add_row("trained parameters", f"{metrics['trained_parameters']:,} of {metrics['parameters']:,}")
    table.add_row("seconds", f"{metrics['seconds']:.1f} ({metrics['device']}, {metrics['precision']})")
    return table
