"""The bundle: complete with three libraries, and nothing in it that is not imported."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.cli import run_cli
from support.device_models import publish_again

from unfreeze.contract.errors import OptionsError, UnfreezeError
from unfreeze.device.bundle import ENTRIES, BundleOptions, write_bundle
from unfreeze.device.bundle_texts import units
from unfreeze.device.modules import find_modules

pytestmark = pytest.mark.xdist_group("commands")
# Other packages and this repository are there, but cannot be imported: `-I` leaves out the variables and the user's
# folder, the first lines whatever else the environment has installed.
ISOLATED = """
import runpy, sys
ALLOWED = {"numpy", "PIL", "onnxruntime", *sys.argv[1].split(",")} | sys.stdlib_module_names
class Missing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in ALLOWED and top not in ("unfreeze", "__main__"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if top == "unfreeze" and path is None and not any(entry.endswith(("/lib", ".pyz")) for entry in sys.path[:1]):
            raise ModuleNotFoundError("not from the bundle", name=name)
sys.meta_path.insert(0, Missing())
import subprocess
for heavy in ("grpc", "google.protobuf", "cyclopts", "rich", "torch"):
    try:
        __import__(heavy)
    except ModuleNotFoundError:
        continue
    raise AssertionError(heavy)
sys.argv = sys.argv[2:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    loaded = sorted(name for name in sys.modules if name.partition(".")[0] == "unfreeze")
    print("LOADED", *loaded, file=sys.stderr)
"""


def _isolated(program: Path, *arguments: object, allowed: str = "") -> "subprocess.CompletedProcess[str]":
    """Run a program of a bundle with only its libraries."""
    command = [sys.executable, "-I", "-c", ISOLATED, allowed, str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


def _loaded(done: "subprocess.CompletedProcess[str]") -> set[str]:
    return set(done.stderr.splitlines()[-1].split()[1:])


@pytest.fixture(scope="module")
def app(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of `colors`, written by the command; tests must not change it."""
    out = tmp_path_factory.mktemp("bundle") / "app"
    done = run_cli("bundle", exported.parents[1], "--out", out, "--source", "https://example.org/a%20b", "--json")
    assert done.returncode == 0, done.stderr
    written = json.loads(done.stdout)
    assert (written["folder"], written["model"], written["version"]) == (str(out), "colors", 1)
    assert [one.partition("==")[0] for one in written["requirements"]] == ["numpy", "pillow", "onnxruntime"]
    return out


def test_contains_what_its_readme_lists(app: Path, exported: Path) -> None:
    """The model is byte for byte the published one, with all files of its version; binaries are only in it."""
    assert {path.name for path in app.iterdir()} == {
        *("README.md", "app.pyz", "classify", "lib", "models", "pull", "requirements.txt", "systemd")
    }
    version = app / "models" / "colors" / "1"
    assert {path.name: path.read_bytes() for path in version.iterdir()} == {
        path.name: path.read_bytes() for path in exported.parent.iterdir()
    }
    assert {path.suffix for path in (app / "lib").rglob("*") if path.is_file()} == {".py"}
    assert (app / "classify").stat().st_mode & 0o111
    pins = dict(line.split("==") for line in (app / "requirements.txt").read_text().splitlines())
    assert pins.keys() == {"numpy", "pillow", "onnxruntime"}
    assert "https://example.org/a%%20b --json" in (app / "systemd" / "unfreeze-pull.service").read_text()


def test_classifies_and_pulls_with_the_three_libraries_alone(
    app: Path, device: Path, exported: Path, images: list[Path], tmp_path: Path
) -> None:
    """The programs and the archive, where every other package cannot be imported; all that they load is in `lib`."""
    copied = Path(shutil.copytree(app, tmp_path / "app"))
    (tmp_path / "bad.jpg").write_text("no image")
    done = _isolated(copied / "classify", *images[:2], tmp_path / "bad.jpg", "--top-k", "1")
    assert done.returncode == 1, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["version"], line["error"] is None) for line in lines] == [(1, True), (1, True), (1, False)]
    loaded = _loaded(done)
    publish_again(exported, device)
    done = _isolated(copied / "pull", device, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == 2
    loaded |= _loaded(done)
    done = _isolated(copied / "app.pyz", "classify", images[0])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == 2
    packed = {str(path.relative_to(app / "lib")) for path in (app / "lib").rglob("*.py")}
    names = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in packed}
    assert loaded <= names
    assert len(loaded) > 40


def test_every_module_in_it_can_be_imported_with_the_three_libraries(app: Path, tmp_path: Path) -> None:
    """No module that is packed needs one that is not."""
    program = tmp_path / "import_all"
    program.write_text(
        f"""
import importlib, sys
from pathlib import Path
lib = Path({str(app / "lib")!r})
sys.path.insert(0, str(lib))
for file in lib.rglob("*.py"):
    name = str(file.relative_to(lib)).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    importlib.import_module(name)
"""
    )
    done = _isolated(program)
    assert done.returncode == 0, done.stderr
    assert len(_loaded(done)) == len(list((app / "lib").rglob("*.py")))


def test_modules_are_found_by_their_imports() -> None:
    """Also inside of functions; not for type checkers, and nothing of the training or serving stack."""
    found = find_modules(ENTRIES)
    assert {
        f"unfreeze/device/{name}.py" for name in ("camera", "trial", "programs", "sources/web")
    } <= found.files.keys()
    assert not [
        path for path in found.files if path.startswith(("unfreeze/tune", "unfreeze/export", "unfreeze/protos"))
    ]
    assert not [path for path in found.files if "client" in path or "commands" in path or "bundle" in path]
    third = found.others - sys.stdlib_module_names
    assert third == {"PIL", "cryptography", "cv2", "fsspec", "jaxtyping", "numpy", "onnxruntime", "pillow_heif"}


def test_same_inputs_give_the_same_archive(app: Path, exported: Path, tmp_path: Path) -> None:
    """And the archive has the modules of `lib`."""
    write_bundle(exported.parents[1], tmp_path / "again", BundleOptions())
    assert (tmp_path / "again" / "app.pyz").read_bytes() == (app / "app.pyz").read_bytes()
    with zipfile.ZipFile(app / "app.pyz") as archive:
        packed = {path.relative_to(app / "lib").as_posix() for path in (app / "lib").rglob("*.py")}
        assert set(archive.namelist()) == {"__main__.py", *packed}


def test_a_plain_file_becomes_version_1(exported: Path, images: list[Path], tmp_path: Path) -> None:
    """With the digests that a version has, so that `pull` can replace it."""
    (tmp_path / "plain").mkdir()
    shutil.copy(exported, tmp_path / "plain" / "model.onnx")
    written = write_bundle(tmp_path / "plain" / "model.onnx", tmp_path / "app", BundleOptions())
    assert (written.model, written.version) == ("plain", 1)
    done = _isolated(tmp_path / "app" / "classify", images[0])
    assert json.loads(done.stdout)["model"] == "plain", done.stderr
    assert json.loads(done.stdout)["version"] == 1


def test_refuses_a_model_that_fails_here_and_writes_nothing(device: Path, exported: Path, tmp_path: Path) -> None:
    """Its golden images are classified first; an existing folder is not touched either."""
    publish_again(exported, device, broken=True)
    with pytest.raises(UnfreezeError, match="a log-probability differs"):
        write_bundle(device, tmp_path / "app", BundleOptions())
    with pytest.raises(UnfreezeError, match="exists already"):
        write_bundle(device, tmp_path, BundleOptions())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["device"]


def test_a_private_key_is_never_packed(exported: Path, tmp_path: Path) -> None:
    """Instead of the public one it would reach every device; any other file that is no key is refused too."""
    private = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for content in (private, b"no key"):
        (tmp_path / "key.pem").write_bytes(content)
        with pytest.raises(UnfreezeError, match=r"the public key .* cannot be read"):
            write_bundle(exported, tmp_path / "app", BundleOptions(public_key=tmp_path / "key.pem"))
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


def test_the_folder_above_has_its_own_name(device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`..` is the folder of the model, and never a part of a path in the bundle."""
    monkeypatch.chdir(device / "1")
    assert write_bundle(Path(".."), tmp_path / "app", BundleOptions()).model == "colors"
    assert (tmp_path / "app" / "models" / "colors" / "1" / "model.onnx").is_file()


def test_units_have_names_and_sources_as_systemd_quotes_them() -> None:
    """No name and no source adds a line, a variable or a second argument."""
    texts = units("a\n[Service]\nUser=root %h", 'https://example.org/a b?x=$HOME&y="%41"')
    assert all("\n[Service]\nUser=root" not in text for text in texts.values())
    assert "Description=Update the model a [Service] User=root %%h\n" in texts["unfreeze-pull.service"]
    quoted = r'pull "https://example.org/a b?x=$$HOME&y=\"%%41\"" --json'
    assert quoted in texts["unfreeze-pull.service"]
    with pytest.raises(OptionsError, match=r"--python must be like 3\.11, got 'latest'"):
        BundleOptions(python="latest")
    with pytest.raises(OptionsError, match="--source must be a path or a URL in one line"):
        BundleOptions(source="https://example.org\nUser=root")


def test_wheels_that_cannot_be_fetched_are_a_clear_error(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an index, and for a platform without binaries."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    options = BundleOptions(platform="linux-aarch64", with_wheels=True)
    with pytest.raises(UnfreezeError, match=r"pip cannot fetch the wheels for linux-aarch64 and Python 3\.\d+ \(ERROR"):
        write_bundle(exported, tmp_path / "app", options)
    assert not (tmp_path / "app").exists()
    with pytest.raises(OptionsError, match="--with-wheels needs --platform"):
        BundleOptions(with_wheels=True)


def test_units_are_valid_for_systemd(app: Path, tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing, apart from the programs that are not installed here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    units = shutil.copytree(app / "systemd", tmp_path / "units")
    for unit in units.glob("*.service"):
        unit.write_text(unit.read_text().replace("/opt/unfreeze/venv/bin/python", sys.executable))
    command = ["systemd-analyze", "verify", *map(str, sorted(units.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "unfreeze-" in line]
    assert ours == []
