"""`unfreeze verify`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from unfreeze.console import RESULTS, print_json
from unfreeze.contract.model.repository import find_model

EXAMPLES = """Examples:

    unfreeze verify models/flowers
    unfreeze verify model.onnx --json
    unfreeze verify models/flowers/3 --public-key ours.pem
"""


def verify(
    model: Path,
    *,
    runtime: Literal["cpu", "cuda", "tensorrt"] = "cpu",
    public_key: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Prove on this device that a model is what was exported: its file, how it prepares images, and what it answers.

    Needs no data: a few images with the answers to them travel inside the model. The exit code is not 0 where
    anything differs.

    Args:
        model: a `model.onnx`, or the folder of its version or of the model, whose newest version is taken.
        runtime: what answers: ONNX Runtime on the CPU or on CUDA, or the TensorRT engine beside the model.
        public_key: in PEM, of those who are to have signed the version's folder; needs unfreeze[signing].
        json: print what was found as JSON on standard output.
    """
    from unfreeze.serve.models.verification import verify as run_verify

    path = find_model(model)
    if public_key is not None:
        from unfreeze.serve.models.signature import check_signature

        check_signature(path.parent, public_key)
    found = run_verify(path, runtime=runtime)
    if json:
        print_json({"path": str(path), **dataclasses.asdict(found)})
        return
    RESULTS.print(
        f"{path} is what was exported (SHA-256 {found.sha256}): {found.golden} images of its own are answered here "
        f"to {found.largest_difference:.1e} ({found.tolerance:g} is let pass)",
        markup=False,
    )
