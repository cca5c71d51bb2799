"""Verify who signed a version, with its small files alone: before the model is downloaded.

The signature is a Sigstore bundle as OpenSSF's model-signing writes it: a statement of in-toto about the files of the
version's folder, in an envelope (DSSE) that is signed with an elliptic-curve key. model-signing itself needs thirty
packages; this needs `cryptography`.
"""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unfreeze.contract.errors import ManifestError, RefusedVersionError, UnfreezeError
from unfreeze.contract.model.schema import loads

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}  # by the name of the curve
_PREDICATE = "https://model_signing/signature/v1.0"


def check_signed(signature: bytes | None, public_key: Path, version: int, digests: Mapping[str, str]) -> None:
    """Check that the owner of a key signed exactly these files as this version.

    The number of the version is part of what is signed, so an old version cannot be passed off as a new one.

    Args:
        signature: content of `model.sig`; None if there is none.
        public_key: PEM file of the signer's public key.
        version: number of the version.
        digests: SHA-256 of each file of the version except the signature, by name.

    Raises:
        RefusedVersionError: it is not signed, with another key, or for other files or another version.
        UnfreezeError: the key cannot be read, or cryptography is not installed.
    """
    if signature is None:
        raise RefusedVersionError(f"version {version} is not signed; sign with `unfreeze export --sign-key`")
    try:
        payload, signed = _read_bundle(signature)
        statement = loads(payload)
        found = _files(statement)
        name = statement["subject"][0]["name"]
    except (ManifestError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RefusedVersionError(f"the signature of version {version} cannot be read: {error!r}") from error
    _check_key(signed, _encoded(payload), public_key, version)
    if name != str(version):
        raise RefusedVersionError(f"version {version} has the signature of version {name!r:.100}")
    if found != dict(digests):
        others = sorted({name for name, _ in found.items() ^ digests.items()})
        raise RefusedVersionError(f"version {version} does not have the files that were signed: {others[:5]}")


def _read_bundle(signature: bytes) -> tuple[bytes, bytes]:
    """Return the payload and its signature."""
    bundle = loads(signature)
    envelope = bundle["dsseEnvelope"]
    (signed,) = envelope["signatures"]
    if bundle["mediaType"] != _MEDIA_TYPE or envelope["payloadType"] != _PAYLOAD_TYPE:
        raise ValueError(f"its type is {bundle['mediaType']!r:.100}, {envelope['payloadType']!r:.100}")
    return base64.b64decode(envelope["payload"], validate=True), base64.b64decode(signed["sig"], validate=True)


def _files(statement: Any) -> dict[str, str]:
    """Return the digest of each file that a statement is about."""
    if statement["_type"] != _STATEMENT or statement["predicateType"] != _PREDICATE:
        raise ValueError(f"its statement is {statement['predicateType']!r:.100}")
    resources = statement["predicate"]["resources"]
    if any(one["algorithm"] != "sha256" for one in resources):
        raise ValueError("its digests are not SHA-256")
    files = {str(one["name"]): str(one["digest"]) for one in resources}
    if len(files) != len(resources):
        raise ValueError("it names a file twice")
    return files


def _encoded(payload: bytes) -> bytes:
    """Encode what is signed: DSSE's pre-authentication encoding, https://github.com/secure-systems-lab/dsse."""
    return f"DSSEv1 {len(_PAYLOAD_TYPE)} {_PAYLOAD_TYPE} {len(payload)} ".encode() + payload


def read_public_key(path: Path) -> "EllipticCurvePublicKey":
    """Read a key that signatures are checked with.

    Args:
        path: of the PEM file.

    Raises:
        UnfreezeError: it is no public key of a supported curve, or cryptography is not installed.
    """
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise UnfreezeError(
            f"--public-key needs the package cryptography ({error}): pip install cryptography"
        ) from error
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UnfreezeError(f"the public key {path} cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise UnfreezeError(f"{path} is not a public key of the curves {', '.join(_HASHES)}")
    return key


def _check_key(signed: bytes, message: bytes, public_key: Path, version: int) -> None:
    key = read_public_key(public_key)
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key.verify(signed, message, ec.ECDSA(getattr(hashes, _HASHES[key.curve.name])()))
    except InvalidSignature as error:
        raise RefusedVersionError(f"version {version} is not signed with the key of {public_key}") from error
