"""Check who made a model: the signature in its version's folder, by OpenSSF's model-signing."""

from pathlib import Path

from unfreeze.contract.errors import ModelError, first_line
from unfreeze.contract.model.repository import SIGNATURE_FILE


def check_signature(folder: Path, public_key: Path) -> None:
    """Hold a version's folder against its signature: every file in it, and no file besides.

    Args:
        folder: of a version.
        public_key: of those who are to have signed it, in PEM.

    Raises:
        ModelError: it is not signed, not by this key, or was changed; or the library is not installed.
    """
    try:
        from model_signing import hashing, verifying
    except ImportError as error:
        raise ModelError(f"checking a signature needs a library ({error}): pip install 'unfreeze[signing]'") from error
    signature = folder / SIGNATURE_FILE
    if not signature.is_file():
        raise ModelError(f"{folder} is not signed: there is no {SIGNATURE_FILE}; `unfreeze export --sign-key` makes it")
    if not public_key.is_file():
        raise ModelError(f"there is no public key {public_key}")
    ignoring = hashing.Config().set_ignored_paths(paths=[SIGNATURE_FILE], ignore_git_paths=False)
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        config.set_hashing_config(ignoring).verify(folder, signature)
    except Exception as error:  # signatures and keys go wrong in many ways, each with an error of its own
        raise ModelError(f"{folder} is not what was signed by {public_key}: {first_line(error)}") from error
