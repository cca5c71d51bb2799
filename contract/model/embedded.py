"""Read the manifest inside a `model.onnx` with no parser of ONNX: it is a text among the file's metadata."""

from unfreeze.contract.errors import ManifestError, ModelError
from unfreeze.contract.model.manifest import METADATA_KEY, Manifest

# An entry of the metadata in protobuf's wire format: the key (field 1) and the value (field 2), each after its length.
_ENTRY = b"\x0a" + bytes([len(METADATA_KEY)]) + METADATA_KEY.encode() + b"\x12"
_LONGEST_VARINT = 5


def manifest_in(model: bytes) -> Manifest:
    """Find and read the manifest.

    Args:
        model: the content of a `model.onnx`.

    Raises:
        ModelError: there is none, or it cannot be used.
    """
    start = model.rfind(_ENTRY)
    if start < 0:
        raise ModelError("carries no manifest: only what `unfreeze export` wrote can be used")
    size, begin = _varint(model, start + len(_ENTRY))
    text = model[begin : begin + size]
    if len(text) != size:
        raise ModelError(f"is cut off: its manifest has {size:,} bytes, of which {len(text):,} are there")
    try:
        return Manifest.from_json(text)
    except ManifestError as error:
        raise ModelError(f"has a manifest that cannot be used: {error}") from error


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read one of protobuf's numbers: seven bits a byte, the lowest first."""
    value = 0
    for number, byte in enumerate(data[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * number)
        if byte < 0x80:  # noqa: PLR2004 - the last one has no eighth bit
            return value, at + number + 1
    raise ModelError("has a manifest whose length is no number")
