"""The seal: a model file carries its own SHA-256 in its manifest, so that any device can tell whether it was changed.

The digest is of the whole file with zeros in the digest's own place. It tells damage and careless changes; who may have
made a change on purpose is what signatures are for.
"""

import hashlib
import re

from contract.errors import ModelError

UNSEALED = "0" * 64
_PLACE = re.compile(rb'"sha256": "([0-9a-f]{64})"')  # in JSON, a quotation mark inside of a text is escaped


def sealed(model: bytes) -> bytes:
    """Put its digest into a model.

    Args:
        model: the content of a `model.onnx` whose manifest's `sha256` is `UNSEALED`.
    """
    return _with_digest(model, hashlib.sha256(model).hexdigest())


def check_seal(model: bytes) -> str:
    """Refuse a model that is not what was sealed.

    Args:
        model: the content of a `model.onnx`.

    Returns:
        Its digest.

    Raises:
        ModelError: it carries no seal, or was changed.
    """
    places = _PLACE.findall(model)
    if len(places) != 1:
        raise ModelError("carries no manifest with a seal: it is cut off, or not what `unfreeze export` wrote")
    said: str = places[0].decode()
    found = hashlib.sha256(_with_digest(model, UNSEALED)).hexdigest()
    if said != found:
        raise ModelError(f"is not what was exported: its SHA-256 is {found}, its manifest says {said}; copy it anew")
    return said


def _with_digest(model: bytes, sha256: str) -> bytes:
    return _PLACE.sub(b'"sha256": "%s"' % sha256.encode(), model)
