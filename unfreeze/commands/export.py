"""`unfreeze export`."""

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unfreeze.console import RESULTS, TerminalReporter, print_json

EXAMPLES = """Examples:

    unfreeze export run/ --repository models/ --name flowers
"""


def export(
    run: Path,
    *,
    repository: Path,
    name: str,
    data: Path | None = None,
    tolerance: float = 1e-4,
    max_batch: int = 64,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Export a run as one ONNX file, prove it equal to what was trained, and publish it as a new version.

    Nothing is published, and the exit code is not 0, where a probability differs by more than the tolerance.

    Args:
        run: folder that `unfreeze tune` wrote.
        repository: folder of models, made where it is missing.
        name: of the model in there.
        data: folder of pictures that the run learned from, if it has moved.
        tolerance: largest difference of a probability between torch and ONNX Runtime that is let pass.
        max_batch: largest batch to serve it with.
        json: print the outcome as JSON on standard output.
    """
    from export.run import export as run_export

    with TerminalReporter() as reporter:
        published = run_export(
            run, repository, name, data=data, tolerance=tolerance, max_batch=max_batch, reporter=reporter
        )
    proof = published.manifest.proof
    if json:
        print_json(
            {
                "path": str(published.path),
                "name": published.name,
                "version": published.version,
                "bytes": published.bytes,
                "proof": dataclasses.asdict(proof),
            }
        )
        return
    RESULTS.print(
        f"published {published.path} ({published.bytes / 1e6:.1f} MB): on {proof.pictures} validation pictures, in "
        f"batches of {', '.join(map(str, proof.batch_sizes))}, no probability differs from torch's by more than "
        f"{proof.largest_difference:.1e}",
        markup=False,
    )
    RESULTS.print(f"next: unfreeze serve --repository {repository}", markup=False)
