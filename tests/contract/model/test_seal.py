"""The seal: any change of a sealed file is detected."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unfreeze.contract.errors import ModelError
from unfreeze.contract.model.seal import UNSEALED, check_seal, sealed

FILE = (
    b"\x08\x0a graph \x00\xff"
    b'{"labels": ["\\"sha256\\": \\"'
    + b"ab" * 32
    + b'\\""], "sha256": "'
    + (UNSEALED.encode() + b'", "weights_sha256": "' + b"cd" * 32 + b'"}')
)


def test_seal_is_the_digest_of_the_unsealed_file() -> None:
    """It replaces the zeros, and nothing else changes."""
    digest = hashlib.sha256(FILE).hexdigest()
    assert sealed(FILE) == FILE.replace(UNSEALED.encode(), digest.encode())
    assert check_seal(sealed(FILE)) == digest


@given(place=st.integers(0, len(FILE) - 1), step=st.integers(1, 255))
@settings(deadline=None)
def test_detects_any_changed_byte(place: int, step: int) -> None:
    """One byte of the file, of the manifest or of the seal itself, changed to any other."""
    changed = bytearray(sealed(FILE))
    changed[place] = (changed[place] + step) % 256
    with pytest.raises(ModelError, match=r"is not the file that was exported|has no manifest with a seal"):
        check_seal(bytes(changed))


@pytest.mark.parametrize("change", [lambda file: file[:-1], lambda file: file + b" ", lambda file: file + file])
def test_detects_truncated_and_longer_files(change) -> None:  # noqa: ANN001
    """Cut off, with a byte more, or the same content twice."""
    with pytest.raises(ModelError):
        check_seal(change(sealed(FILE)))


@pytest.mark.parametrize("file", [b"", b"no model", b'"sha256": "0123"', FILE])
def test_rejects_files_without_a_seal(file: bytes) -> None:
    """No seal, a malformed one, or only zeros in its place."""
    with pytest.raises(ModelError):
        check_seal(file)
