"""The command `unfreeze drift`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from unfreeze.console import REMARKS, RESULTS, TerminalReporter, print_json
from unfreeze.contract.errors import OptionsError
from unfreeze.contract.files import replacing
from unfreeze.contract.folders import list_files
from unfreeze.contract.model.repository import find_model
from unfreeze.serve.runtimes.registry import RuntimeName, runtime_summaries

if TYPE_CHECKING:
    from unfreeze.contract.drift.features import FeatureDrift
    from unfreeze.contract.drift.window import Drift
    from unfreeze.drift.images import DriftOfImages

EXAMPLES = """Examples:

    unfreeze drift models/flowers photographs/
    unfreeze drift models/flowers photographs/ --page drift.html
    unfreeze drift models/flowers/3 photographs/ --json
"""


def drift(
    model: Path,
    images: Annotated[list[Path], Parameter(negative="")],
    *,
    device: Annotated[RuntimeName, Parameter(help=f"what executes the model: {runtime_summaries()}.")] = "cpu",
    page: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Compare images with those that a model was validated on.

    Predicted labels, confidence, brightness, contrast, sharpness and size are compared. The exit code is 0 whether they
    differ or not; it is 1 if no image can be used.

    Args:
        model: a `model.onnx`, the folder of a version, or the folder of a model, for its newest version.
        images: image files, or folders of images.
        device: what executes the model.
        page: HTML file to write, with the distributions and the images that are farthest from the validation images;
            needs unfreeze[report].
        json: print the result as JSON to standard output.
    """
    from unfreeze.drift.images import drift_of_images

    if page is not None:
        from unfreeze.drift.page import drift_page  # needs unfreeze[report]: said before images are read

        if not page.absolute().parent.is_dir():
            raise OptionsError(f"--page: no such folder: {page.absolute().parent}")
    paths = [path for one in images for path in (list_files(one).entries if one.is_dir() else (one,))]
    with TerminalReporter() as reporter:
        found = drift_of_images(find_model(model), paths, device, reporter)
    for reason in found.skipped:
        REMARKS.print(reason, markup=False)
    if json:
        print_json(_document(found))
    else:
        RESULTS.print(_table(found.drift.quantities))
        if found.drift.features is not None:
            RESULTS.print(_features(found.drift.features), markup=False)
        RESULTS.print(found.verdict, markup=False)
    if page is not None:
        with replacing(page) as file:
            file.write(drift_page(found).encode())
        REMARKS.print(f"written: {page}", markup=False)


def _table(found: "tuple[Drift, ...]") -> Table:
    table = Table("quantity", "PSI", "by chance", "Jensen-Shannon, bits", "differs")
    for one in found:
        away = one.distance
        numbers = f"{away.psi:.3f}", f"{away.expected_psi:.3f}", f"{away.js:.3f}"
        table.add_row(one.name, *numbers, "yes" if one.alarm else "")
    return table


def _features(found: "FeatureDrift") -> str:
    differ = "by more than chance explains" if found.alarm else "by no more than chance explains"
    return (
        f"features: the means are {found.mahalanobis:.2f} standard deviations apart (by chance "
        f"{found.expected_mahalanobis:.2f}), which is {differ}; Frechet distance {found.frechet:.2f}"
    )


def _document(found: "DriftOfImages") -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "model": str(found.model),
        "images": found.images,
        "validation_images": found.reference.images,
        "alarm": found.alarm,
        "drift": [dataclasses.asdict(one) for one in found.drift.quantities],
        "features": None if found.drift.features is None else dataclasses.asdict(found.drift.features),
        "farthest": [dataclasses.asdict(one) | {"path": str(one.path)} for one in found.farthest],
        "skipped": found.skipped,
    }
