"""Signatures on a device: what model-signing signs is accepted, and nothing else under any number."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from support.device_models import publish_again

from unfreeze.contract.errors import ModelError, RefusedVersionError, UnfreezeError
from unfreeze.device.update import PullOptions, pull
from unfreeze.device.versions import list_versions
from unfreeze.serve.models.signature import check_signature

pytestmark = pytest.mark.xdist_group("commands")


def _keys(folder: Path, curve: ec.EllipticCurve) -> tuple[Path, Path]:
    folder.mkdir()
    key = ec.generate_private_key(curve)
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
    """Ours: the private and the public one."""
    return _keys(tmp_path_factory.mktemp("keys") / "ours", ec.SECP256R1())


@pytest.fixture(scope="module")
def signed(exported: Path, keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source with version 1, signed with our key."""
    folder = tmp_path_factory.mktemp("signed") / "colors"
    publish_again(exported, folder, key=keys[0])
    return folder


@pytest.fixture
def source(signed: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(signed, tmp_path / "source" / "colors"))


def _pull(source: Path, device: Path, key: Path) -> int:
    return pull(PullOptions(source=str(source), into=device, public_key=key)).version


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_what_our_key_has_signed_is_taken(curve: ec.EllipticCurve, exported: Path, tmp_path: Path) -> None:
    """For each curve that model-signing signs with; on the device, model-signing verifies the folder too."""
    private, public = _keys(tmp_path / "keys", curve)
    publish_again(exported, tmp_path / "source" / "colors", key=private)
    assert _pull(tmp_path / "source" / "colors", tmp_path / "device", public) == 1
    check_signature(tmp_path / "device" / "1", public)


def test_unsigned_and_wrongly_signed_versions_are_refused(
    source: Path, exported: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """Version 1 stays, nothing of the others is received; with the right signature the next one is taken."""
    device = tmp_path / "device"
    _pull(source, device, keys[1])
    theirs, _ = _keys(tmp_path / "theirs", ec.SECP256R1())
    publish_again(exported, source)
    with pytest.raises(RefusedVersionError, match="version 2 is refused: version 2 is not signed"):
        _pull(source, device, keys[1])
    publish_again(exported, source, key=theirs)
    with pytest.raises(RefusedVersionError, match="version 3 is not signed with the key of"):
        _pull(source, device, keys[1])
    assert list_versions(device) == (1,)
    publish_again(exported, source, key=keys[0])
    assert _pull(source, device, keys[1]) == 4


def test_an_old_version_cannot_be_passed_off_as_a_new_one(
    source: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """The number is part of what is signed: a copy of version 1 under the number 9 is refused."""
    shutil.copytree(source / "1", source / "9")
    with pytest.raises(RefusedVersionError, match="version 9 has the signature of version '1'"):
        _pull(source, tmp_path / "device", keys[1])


@pytest.mark.parametrize("change", ["payload", "sig", "index", "file", "garbage", "list", "type"])
def test_changed_versions_are_refused_here_and_by_model_signing(
    change: str, source: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """The statement, the signature, the index, an additional file, and files that are no signatures."""
    folder = source / "1"
    bundle = json.loads((folder / "model.sig").read_text())
    envelope = bundle["dsseEnvelope"]
    if change == "payload":
        envelope["payload"] = envelope["payload"][:-8] + "AAAA" + envelope["payload"][-4:]
    elif change == "sig":
        envelope["signatures"][0]["sig"] = "MEUC" + envelope["signatures"][0]["sig"][4:-8] + "AAAAAA=="
    elif change == "index":
        (folder / "SHA256SUMS").write_text((folder / "SHA256SUMS").read_text() + f"{'0' * 64}  other.bin\n")
    elif change == "file":
        (folder / "SHA256SUMS").write_text("\n".join(["", *(folder / "SHA256SUMS").read_text().splitlines()]))
    elif change == "type":
        envelope["payloadType"] = "text/plain"
    content = {"garbage": b"\xff", "list": b"[1]"}.get(change, json.dumps(bundle).encode())
    (folder / "model.sig").write_bytes(content)
    with pytest.raises(RefusedVersionError, match="version 1 is refused"):
        _pull(source, tmp_path / "device", keys[1])
    with pytest.raises(ModelError):
        check_signature(folder, keys[1])
    assert list_versions(tmp_path / "device") == ()


def test_a_key_that_cannot_be_used_refuses_nothing_for_ever(
    source: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file without a key, a key of another kind, and a missing library: then the version is taken with our key."""
    (tmp_path / "no.pem").write_text("no key")
    other = ed25519.Ed25519PrivateKey.generate().public_key()
    (tmp_path / "other.pem").write_bytes(
        other.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(UnfreezeError, match=r"the public key .*no\.pem cannot be read"):
        _pull(source, tmp_path / "device", tmp_path / "no.pem")
    with pytest.raises(UnfreezeError, match="is not a public key of the curves secp256r1"):
        _pull(source, tmp_path / "device", tmp_path / "other.pem")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
        with pytest.raises(UnfreezeError, match="pip install cryptography"):
            _pull(source, tmp_path / "device", keys[1])
    assert _pull(source, tmp_path / "device", keys[1]) == 1
