"""Signing: a version's folder is what those signed who have the key, every file of it, or it is refused."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.runs import write_run

from unfreeze.contract.errors import ModelError, OptionsError, ProofError
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import export_model
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


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Ours."""
    return _keys(tmp_path_factory.mktemp("keys") / "ours")


@pytest.fixture(scope="module")
def signed(keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version's folder that we have signed."""
    run = write_run(tmp_path_factory.mktemp("run"))
    return export_model(run, run.parent / "models", "colors", ExportOptions(sign_key=keys[0])).path.parent


@pytest.fixture
def folder(signed: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(signed, tmp_path / "1"))


def test_a_signed_folder_is_whole_and_ours(
    folder: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It verifies with our key, from wherever it is named, by the command too, and not with another's."""
    check_signature(folder, keys[1])
    monkeypatch.chdir(tmp_path)
    check_signature(Path(os.path.relpath(folder)), keys[1])
    done = subprocess.run(
        [sys.executable, "-m", "unfreeze.command", "verify", str(folder), "--public-key", str(keys[1])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(ModelError, match="is not what was signed by"):
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
def test_whatever_is_changed_is_told(change: Callable[[Path], object], folder: Path, keys: tuple[Path, Path]) -> None:
    """A file that was changed, taken away or added, the signature among them."""
    change(folder)
    with pytest.raises(ModelError, match=r"is not what was signed by|is not signed: there is no model\.sig"):
        check_signature(folder, keys[1])


def test_a_key_that_cannot_sign_publishes_nothing(keys: tuple[Path, Path], tmp_path: Path) -> None:
    """A public key, what is no key, and none at all."""
    run = write_run(tmp_path)
    (tmp_path / "no.pem").write_text("no key")
    for key in (keys[1], tmp_path / "no.pem"):
        with pytest.raises(ProofError, match=r"cannot sign: .*nothing was published"):
            export_model(run, tmp_path / "models", "colors", ExportOptions(sign_key=key))
    with pytest.raises(OptionsError, match=r"--sign-key: there is no file .*gone\.pem"):
        ExportOptions(sign_key=tmp_path / "gone.pem")
    assert ModelRepository(tmp_path / "models").models() == {}
    assert list((tmp_path / "models").iterdir()) == []
