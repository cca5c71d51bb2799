"""The command `unfreeze verify`."""

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unfreeze.console import RESULTS, print_json
from unfreeze.contract.model.repository import find_model
from unfreeze.serve.runtimes.registry import RuntimeName, runtime_summaries

EXAMPLES = """Examples:

    unfreeze verify models/flowers
    unfreeze verify model.onnx --json
    unfreeze verify models/flowers/3 --public-key public.pem
"""


def verify(
    model: Path,
    *,
    runtime: Annotated[
        RuntimeName, Parameter(help=f"runtime that classifies the golden images: {runtime_summaries()}.")
    ] = "cpu",
    public_key: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Verify on this device that a model is unchanged and gives the same results as when it was exported.

    Needs no data: the model contains a few golden images and their probabilities. The exit code is not 0 if the file,
    the preprocessing or a probability differs.

    Args:
        model: a `model.onnx`, the folder of a version, or the folder of a model, for its newest version.
        runtime: runtime that classifies the golden images.
        public_key: PEM file of the public key that the version's signature must match; needs unfreeze[signing].
        json: print the result as JSON to standard output.
    """
    from unfreeze.serve.models.verification import verify as run_verify

    path = find_model(model)
    if public_key is not None:
        from unfreeze.serve.models.signature import check_signature

        check_signature(path.parent, public_key)
    result = run_verify(path, runtime=runtime)
    if json:
        print_json({"path": str(path), **dataclasses.asdict(result)})
        return
    RESULTS.print(
        f"verified {path} (SHA-256 {result.sha256}): golden images: {result.golden}, largest difference of a "
        f"log-probability: {result.largest_difference:.1e} (tolerance {result.tolerance:g})",
        markup=False,
    )
