"""The seal: whatever is changed in a sealed file is told."""

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


def test_a_seal_is_the_digest_of_the_unsealed_file() -> None:
    """It stands where the zeros stood, and nothing else changes."""
    digest = hashlib.sha256(FILE).hexdigest()
    assert sealed(FILE) == FILE.replace(UNSEALED.encode(), digest.encode())
    assert check_seal(sealed(FILE)) == digest


@given(place=st.integers(0, len(FILE) - 1), step=st.integers(1, 255))
@settings(deadline=None)
def test_any_byte_that_is_changed_is_told(place: int, step: int) -> None:
    """One byte of the file, of the manifest or of the seal itself, changed to any other."""
    changed = bytearray(sealed(FILE))
    changed[place] = (changed[place] + step) % 256
    with pytest.raises(ModelError, match=r"is not what was exported: its SHA-256 is|carries no manifest with a seal"):
        check_seal(bytes(changed))


@pytest.mark.parametrize("change", [lambda file: file[:-1], lambda file: file + b" ", lambda file: file + file])
def test_a_file_that_was_cut_or_lengthened_is_told(change) -> None:  # noqa: ANN001
    """Truncated, added to, or twice the same."""
    with pytest.raises(ModelError):
        check_seal(change(sealed(FILE)))


@pytest.mark.parametrize("file", [b"", b"no model", b'"sha256": "0123"', FILE])
def test_what_was_never_sealed_is_refused(file: bytes) -> None:
    """No seal, a malformed one, or zeros in its place."""
    with pytest.raises(ModelError):
        check_seal(file)
