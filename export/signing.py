"""Sign a version's folder with OpenSSF's model-signing: it tells who made a model, not only whether it is whole."""

import tempfile
from pathlib import Path

from unfreeze.contract.errors import ProofError, first_line
from unfreeze.contract.model.repository import SIGNATURE_FILE


def sign_folder(folder: Path, private_key: Path) -> bytes:
    """Sign every file in a folder.

    Args:
        folder: of a version, with all its files but the signature.
        private_key: an elliptic-curve key in PEM, without a password.

    Returns:
        The signature: a Sigstore bundle.

    Raises:
        ProofError: the library is not installed, or the key cannot be used.
    """
    try:
        from model_signing import hashing, signing
    except ImportError as error:
        raise ProofError(f"signing needs a library ({error}): pip install 'unfreeze[signing]'") from error
    with tempfile.TemporaryDirectory() as beside:
        signature = Path(beside) / SIGNATURE_FILE
        ignoring = hashing.Config().set_ignored_paths(paths=[SIGNATURE_FILE], ignore_git_paths=False)
        try:
            config = signing.Config().use_elliptic_key_signer(private_key=private_key)
            config.set_hashing_config(ignoring).sign(folder, signature)
        except Exception as error:  # keys go wrong in many ways, each with an error of its own
            raise ProofError(f"{private_key} cannot sign: {first_line(error)}; nothing was published") from error
        return signature.read_bytes()
