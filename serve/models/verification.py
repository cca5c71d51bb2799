"""Verify a model on this device: the file is intact and classifies its golden images as when it was exported."""

import os
from pathlib import Path

from unfreeze.contract.model.repository import check_beside
from unfreeze.serve.runtimes.golden import VerificationResult, verify_answers
from unfreeze.serve.runtimes.registry import RuntimeName, open_runtime


def verify(path: str | os.PathLike[str], *, runtime: RuntimeName = "cpu") -> VerificationResult:
    """Verify a model's seal and its golden images: decoding, resizing and the graph, without any data set.

    Files that were published next to the model are checked against their digests.

    Args:
        path: a `model.onnx` written by `unfreeze export`.
        runtime: a registered runtime.

    Returns:
        The number of golden images and the largest difference.

    Raises:
        ModelError: the file was changed, or a golden image is classified differently; the message says which one and
            by how much.
    """
    with open_runtime(path, runtime) as opened:
        check_beside(Path(path), opened.manifest.labels)
        return verify_answers(opened, str(path))
