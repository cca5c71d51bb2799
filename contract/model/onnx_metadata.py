"""Read the manifest from an ONNX file without an ONNX parser: it is an entry of the model's metadata."""

from unfreeze.contract.errors import ManifestError, ModelError
from unfreeze.contract.model.manifest import METADATA_KEY, Manifest

# A metadata entry in protobuf's wire format: the key (field 1) and the value (field 2), each after its length.
_ENTRY = b"\x0a" + bytes([len(METADATA_KEY)]) + METADATA_KEY.encode() + b"\x12"
_LONGEST_VARINT = 5


def read_manifest(model: bytes) -> Manifest:
    """Find and parse the manifest of a model.

    Args:
        model: the content of a `model.onnx`.

    Raises:
        ModelError: there is no manifest, or it is not valid; the message continues a sentence about the file.
    """
    start = model.rfind(_ENTRY)
    if start < 0:
        raise ModelError("has no manifest: only models that `unfreeze export` wrote can be used")
    size, begin = _varint(model, start + len(_ENTRY))
    text = model[begin : begin + size]
    if len(text) != size:
        raise ModelError(f"is truncated: its manifest should have {size:,} bytes, but only {len(text):,} are present")
    try:
        return Manifest.from_json(text)
    except ManifestError as error:
        raise ModelError(f"has an invalid manifest: {error}") from error


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read one of protobuf's integers, 7 bits per byte, the lowest first; return it and the position after it."""
    value = 0
    for number, byte in enumerate(data[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * number)
        if byte < 0x80:  # noqa: PLR2004 - the last byte has no eighth bit
            return value, at + number + 1
    raise ModelError("has an invalid manifest: its length cannot be read")
