"""Write the report of a run."""

from pathlib import Path

from unfreeze.contract.errors import CheckpointError
from unfreeze.contract.files import replacing
from unfreeze.contract.reporting import Reporter
from unfreeze.report.embedding import Projection
from unfreeze.report.page import report_page
from unfreeze.report.run_files import read_run
from unfreeze.tune.artifacts.run_folder import REPORT_FILE


def write_report(folder: Path, projection: Projection = "pca", reporter: Reporter | None = None) -> Path:
    """Write `report.html` into the folder of a run; an older one is replaced.

    Args:
        folder: of a finished run.
        projection: how the images are mapped to a plane, see `unfreeze.report.embedding.project`.
        reporter: shows progress.

    Returns:
        The file.

    Raises:
        CheckpointError: the folder contains no finished run, or the run is damaged.
        OSError: the file cannot be written.
    """
    run = read_run(folder)
    try:
        page = report_page(run, projection, reporter)
    except KeyError as error:
        raise CheckpointError(f"{folder} has no {error}: another version of unfreeze wrote it; tune again") from error
    with replacing(folder / REPORT_FILE) as file:
        file.write(page.encode("utf-8", "backslashreplace"))
    return folder / REPORT_FILE
