"""Signing: a version's folder is rejected unless every file is as the owner of the key has signed it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.cli import run_cli

from unfreeze.contract.errors import ModelError, OptionsError, ProofError
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import export_model
from unfreeze.export.signing import sign_folder
from unfreeze.serve.models.signature import check_signature


def _keys(folder: Path) -> tuple[Path, Path]:
    """Make a pair of keys: the private and the public one."""
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / "private.pem", folder / "public.pem"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


pytestmark = pytest.mark.xdist_group("export")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Ours."""
    return _keys(tmp_path_factory.mktemp("keys") / "ours")


@pytest.fixture(scope="module")
def signed(run: Path, keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version's folder that is signed with our key."""
    models = tmp_path_factory.mktemp("signed") / "models"
    return export_model(run, models, "colors", ExportOptions(sign_key=keys[0])).path.parent


@pytest.fixture
def folder(signed: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(signed, tmp_path / "1"))


def test_a_signature_verifies_with_its_key_only(
    folder: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With our key it verifies, by a relative path and by the command too; with another key it does not."""
    check_signature(folder, keys[1])
    monkeypatch.chdir(tmp_path)
    check_signature(Path(os.path.relpath(folder)), keys[1])
    done = run_cli("verify", folder, "--public-key", keys[1])
    assert done.returncode == 0, done.stderr
    with pytest.raises(ModelError, match="does not match its signature by"):
        check_signature(folder, _keys(tmp_path / "theirs")[1])


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b" "),
        lambda folder: (folder / "SHA256SUMS").write_text("nothing"),
        lambda folder: (folder / "SHA256SUMS").unlink(),
        lambda folder: (folder / "more.bin").write_bytes(b"more"),
        lambda folder: (folder / "model.sig").write_text("{}"),
        lambda folder: (folder / "model.sig").unlink(),
    ],
)
def test_detects_changed_added_and_missing_files(
    change: Callable[[Path], object], folder: Path, keys: tuple[Path, Path]
) -> None:
    """The signature is one of the files."""
    change(folder)
    with pytest.raises(ModelError, match=r"does not match its signature by|is not signed: model\.sig is missing"):
        check_signature(folder, keys[1])


def test_a_key_that_cannot_sign_publishes_nothing(run: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """A public key, a file without a key, and a missing file."""
    (tmp_path / "no.pem").write_text("no key")
    with pytest.raises(ProofError, match=r"cannot sign with .*: .*nothing was published"):
        export_model(run, tmp_path / "models", "colors", ExportOptions(sign_key=keys[1]))
    with pytest.raises(ProofError, match=r"cannot sign with .*no\.pem: .*nothing was published"):
        sign_folder(run, tmp_path / "no.pem")
    with pytest.raises(OptionsError, match=r"--sign-key: no such file: .*gone\.pem"):
        ExportOptions(sign_key=tmp_path / "gone.pem")
    assert ModelRepository(tmp_path / "models").models() == {}
    assert list((tmp_path / "models").iterdir()) == []
