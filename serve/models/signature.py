"""Verify the signature of a model version, made with OpenSSF Model Signing."""

from pathlib import Path

from unfreeze.contract.errors import ModelError, first_line
from unfreeze.contract.model.repository import SIGNATURE_FILE


def check_signature(folder: Path, public_key: Path) -> None:
    """Verify that a version's folder contains exactly the files that were signed.

    Args:
        folder: folder of the version.
        public_key: PEM file of the signer's public key.

    Raises:
        ModelError: the folder is not signed, is signed with another key or was changed, or model-signing is not
            installed.
    """
    try:
        from model_signing import hashing, verifying
    except ImportError as error:
        raise ModelError(
            f"verifying a signature needs model-signing ({error}): pip install 'unfreeze[signing]'"
        ) from error
    signature = folder / SIGNATURE_FILE
    if not signature.is_file():
        raise ModelError(f"{folder} is not signed: {SIGNATURE_FILE} is missing; sign with `unfreeze export --sign-key`")
    if not public_key.is_file():
        raise ModelError(f"public key {public_key} does not exist")
    ignoring = hashing.Config().set_ignored_paths(paths=[SIGNATURE_FILE], ignore_git_paths=False)
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        config.set_hashing_config(ignoring).verify(folder, signature)
    except Exception as error:  # model-signing raises errors of many unrelated types
        raise ModelError(f"{folder} does not match its signature by {public_key}: {first_line(error)}") from error
