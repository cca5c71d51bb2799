"""Sign a version's folder with OpenSSF's model-signing, which proves its origin as well as its integrity."""

import tempfile
from pathlib import Path

from unfreeze.contract.errors import ProofError, first_line
from unfreeze.contract.model.repository import SIGNATURE_FILE


def sign_folder(folder: Path, private_key: Path) -> bytes:
    """Sign every file in a folder.

    Args:
        folder: of a version, with all files except the signature.
        private_key: file with a PEM elliptic-curve key, without a password.

    Returns:
        The signature: a Sigstore bundle.

    Raises:
        ProofError: the library is not installed, or the key cannot be used.
    """
    try:
        from model_signing import hashing, signing
    except ImportError as error:
        raise ProofError(f"signing requires another package ({error}): pip install 'unfreeze[signing]'") from error
    with tempfile.TemporaryDirectory() as beside:
        signature = Path(beside) / SIGNATURE_FILE
        ignoring = hashing.Config().set_ignored_paths(paths=[SIGNATURE_FILE], ignore_git_paths=False)
        try:
            config = signing.Config().use_elliptic_key_signer(private_key=private_key)
            config.set_hashing_config(ignoring).sign(folder, signature)
        except Exception as error:  # the library and cryptography raise many kinds of errors
            raise ProofError(f"cannot sign with {private_key}: {first_line(error)}; nothing was published") from error
        return signature.read_bytes()
