"""The seal: a model file carries its own SHA-256 in its manifest, so that any device can tell whether it was changed.

The digest is of the whole file with zeros in the digest's own place. It tells damage and careless changes; who may have
made a change on purpose is what signatures are for.
"""

import hashlib
import re

from unfreeze.contract.errors import ModelError

UNSEALED = "0" * 64
_KEY = b'"sha256": "'
_DIGEST = re.compile(rb'([0-9a-f]{64})"')


def sealed(model: bytes) -> bytes:
    """Put its digest into a model.

    Args:
        model: the content of a `model.onnx` whose manifest's `sha256` is `UNSEALED`.
    """
    at = _place(model)
    return model[:at] + hashlib.sha256(model).hexdigest().encode() + model[at + len(UNSEALED) :]


def check_seal(model: bytes) -> str:
    """Refuse a model that is not what was sealed.

    Args:
        model: the content of a `model.onnx`.

    Returns:
        Its digest.

    Raises:
        ModelError: it carries no seal, or was changed.
    """
    at = _place(model)
    end = at + len(UNSEALED)
    said = model[at:end].decode()
    digest, view = hashlib.sha256(), memoryview(model)
    for part in (view[:at], UNSEALED.encode(), view[end:]):  # a server copies no model to check it
        digest.update(part)
    if said != digest.hexdigest():
        raise ModelError(
            f"is not what was exported: its SHA-256 is {digest.hexdigest()}, its manifest says {said}; copy it anew"
        )
    return said


def _place(model: bytes) -> int:
    """Find the digest: the last in the file, as the manifest comes last in it, and this key of it after all others."""
    at = model.rfind(_KEY) + len(_KEY)
    if at < len(_KEY) or _DIGEST.match(model, at) is None:
        raise ModelError("carries no manifest with a seal: it is cut off, or not what `unfreeze export` wrote")
    return at
