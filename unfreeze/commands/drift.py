"""The command `unfreeze drift`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.table import Table

from unfreeze.console import REMARKS, RESULTS, TerminalReporter, print_json
from unfreeze.contract.folders import list_files
from unfreeze.contract.model.repository import find_model
from unfreeze.serve.runtimes.registry import RuntimeName, runtime_summaries

if TYPE_CHECKING:
    from unfreeze.contract.drift.window import Drift
    from unfreeze.drift.images import DriftOfImages

EXAMPLES = """Examples:

    unfreeze drift models/flowers photographs/
    unfreeze drift models/flowers/3 photographs/ --json
"""


def drift(
    model: Path,
    images: Annotated[list[Path], Parameter(negative="")],
    *,
    device: Annotated[RuntimeName, Parameter(help=f"what executes the model: {runtime_summaries()}.")] = "cpu",
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Compare images with those that a model was validated on.

    Predicted labels, confidence, brightness and contrast are compared. The exit code is 0 whether they differ or not;
    it is 1 if no image can be used.

    Args:
        model: a `model.onnx`, the folder of a version, or the folder of a model, for its newest version.
        images: image files, or folders of images.
        device: what executes the model.
        json: print the result as JSON to standard output.
    """
    from unfreeze.drift.images import drift_of_images

    paths = [path for one in images for path in (list_files(one).entries if one.is_dir() else (one,))]
    with TerminalReporter() as reporter:
        found = drift_of_images(find_model(model), paths, device, reporter)
    for reason in found.skipped:
        REMARKS.print(reason, markup=False)
    if json:
        print_json(dataclasses.asdict(found) | {"alarm": found.alarm})
        return
    RESULTS.print(_table(found.drift))
    RESULTS.print(_verdict(found), markup=False)


def _table(found: "tuple[Drift, ...]") -> Table:
    table = Table("quantity", "PSI", "by chance", "Jensen-Shannon, bits", "differs")
    for one in found:
        away = one.distance
        numbers = f"{away.psi:.3f}", f"{away.expected_psi:.3f}", f"{away.js:.3f}"
        table.add_row(one.name, *numbers, "yes" if one.alarm else "")
    return table


def _verdict(found: "DriftOfImages") -> str:
    compared = f"{found.images:,} images, compared with {found.validation_images:,} validation images"
    different = [one.name for one in found.drift if one.alarm]
    if different:
        return f"{compared}: {', '.join(different)} differ by more than chance explains"
    return f"{compared}: no difference that chance does not explain"
