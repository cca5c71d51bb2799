"""`findings.json`: every problem that a run found in the dataset, with all files."""

import json
from pathlib import Path

from unfreeze.contract.files import replacing
from unfreeze.tune.data.dataset import Dataset
from unfreeze.tune.data.inspection.findings import path_name
from unfreeze.tune.data.inspection.inspection import Inspection

FINDINGS_FILE = "findings.json"


def write_findings(folder: Path, dataset: Dataset, inspection: Inspection) -> None:
    """Write the findings with all of their files, and every file that is not used with the reason.

    Args:
        folder: the run's folder, which exists.
        dataset: the dataset as it was read.
        inspection: the results of its inspection.
    """
    skipped = {item.path: item.reason for item in (*dataset.skipped, *inspection.undecodable)}
    document = {
        "data": str(dataset.root.absolute()),
        "findings": [vars(finding) for finding in inspection.findings],
        "skipped": [{"path": path_name(path, dataset.root), "reason": why} for path, why in skipped.items()],
        "ignored": [
            {"path": path_name(item.path, dataset.root), "reason": item.reason, "files": item.files}
            for item in dataset.ignored
        ],
    }
    with replacing(folder / FINDINGS_FILE) as file:
        file.write((json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
