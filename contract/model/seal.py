"""The seal: a model file holds its own SHA-256 in its manifest, so that any device can detect whether it was changed.

The digest is that of the whole file with zeros in the digest's place. It detects damage and accidental changes;
signatures protect against deliberate ones.
"""

import hashlib
import re

from unfreeze.contract.errors import ModelError

UNSEALED = "0" * 64
_KEY = b'"sha256": "'
_DIGEST = re.compile(rb'([0-9a-f]{64})"')


def sealed(model: bytes) -> bytes:
    """Write a model's digest into it.

    Args:
        model: the content of a `model.onnx` whose manifest's `sha256` is `UNSEALED`.
    """
    at = _position(model)
    return model[:at] + hashlib.sha256(model).hexdigest().encode() + model[at + len(UNSEALED) :]


def check_seal(model: bytes) -> str:
    """Reject a model that has changed since it was sealed.

    Args:
        model: the content of a `model.onnx`.

    Returns:
        Its digest.

    Raises:
        ModelError: it has no seal, or was changed; the message continues a sentence about the file.
    """
    at = _position(model)
    end = at + len(UNSEALED)
    expected = model[at:end].decode()
    digest, view = hashlib.sha256(), memoryview(model)
    for section in (view[:at], UNSEALED.encode(), view[end:]):  # without a copy of the model
        digest.update(section)
    if expected != digest.hexdigest():
        raise ModelError(
            f"is not the file that was exported: its SHA-256 is {digest.hexdigest()}, and its manifest has {expected}; "
            "copy the file again"
        )
    return expected


def _position(model: bytes) -> int:
    """Find the digest: the last one in the file, because the manifest is last in it, and this key is last in that."""
    at = model.rfind(_KEY) + len(_KEY)
    if at < len(_KEY) or _DIGEST.match(model, at) is None:
        raise ModelError("has no manifest with a seal: it is truncated, or `unfreeze export` did not write it")
    return at
