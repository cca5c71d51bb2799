"""The archives that `pip install unfreeze` downloads: one importable name, complete, and the same from both."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from support.runs import write_run

ROOT = Path(__file__).parents[2]
DECOYS = ("contract", "export", "protos", "serve", "tune")
SHIPPED = ("py.typed", "protos/unfreeze.proto", "tune/builtin/mobilenet_v3_small.safetensors", "tune/__main__.py")
# Runs with `-S`, which leaves out the venv's .pth files and so the editable install of this repository.
STEPS = """
import json, subprocess, sys
import unfreeze.tune.run

run, models, image = sys.argv[1:]
print(unfreeze.__file__, unfreeze.tune.run.__file__)
print(unfreeze.export_model(run, models, "colors").path)
serve = [sys.executable, "-S", "-m", "unfreeze.command", "serve", "--repository", models, "--port", "0", "--no-metrics"]
with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
    try:
        with unfreeze.Client(server.stdout.readline().split()[-1]) as client:
            print(json.dumps([prediction.label for prediction in client.predict(image)[0]]))
    finally:
        server.terminate()
"""

pytestmark = pytest.mark.xdist_group("wheel")


def _build(source: Path, out: Path, target: str) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive."""
    return _build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the repository."""
    return _build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


def _files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_wheel_installs_one_top_level_name(wheel: Path) -> None:
    """Nothing but `unfreeze` and its metadata, so that it cannot collide with another project's packages."""
    files = _files(wheel)
    assert {name.split("/")[0] for name in files} == {"unfreeze", "unfreeze-0.1.0.dist-info"}
    scripts = ConfigParser()
    scripts.read_string(files["unfreeze-0.1.0.dist-info/entry_points.txt"].decode())
    assert dict(scripts["console_scripts"]) == {"unfreeze": "unfreeze.command:main"}


def test_wheel_is_complete_and_has_no_tests(wheel: Path) -> None:
    """Each file of the packages that git tracks is there, with the marker for type checkers and the weights."""
    installed = {name.removeprefix("unfreeze/") for name in _files(wheel) if name.startswith("unfreeze/")}
    assert installed >= set(SHIPPED)
    assert not [name for name in installed if {"tests", "bench"} & set(name.split("/")) or name.endswith(".pyc")]
    folders = [ROOT / name for name in DECOYS]
    modules = {path.relative_to(ROOT).as_posix() for folder in folders for path in folder.rglob("*.py")}
    modules |= {path.relative_to(ROOT / "unfreeze").as_posix() for path in (ROOT / "unfreeze").rglob("*.py")}
    assert {name for name in installed if name.endswith(".py")} == modules


def test_sdist_gives_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    """The source archive holds files in the place of the repository's links, and no tests."""
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
        archive.extractall(tmp_path / "source", filter="data")
    assert all(member.isfile() for member in members)
    (folder,) = (tmp_path / "source").iterdir()
    top = {".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "docs", "pyproject.toml", "unfreeze"}
    assert {path.name for path in folder.iterdir()} == top
    assert _files(_build(folder, tmp_path / "wheel", "wheel")) == _files(wheel)


def test_editable_install_puts_the_repository_on_the_path(tmp_path: Path) -> None:
    """The wheel that `pip install -e .` builds has a .pth file that names the repository."""
    code = "import sys, hatchling.build; hatchling.build.build_editable(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True, timeout=120)
    (built,) = tmp_path.iterdir()
    assert [content.decode().strip() for name, content in _files(built).items() if name.endswith(".pth")] == [str(ROOT)]


def test_installed_wheel_exports_serves_and_predicts_beside_packages_of_the_same_names(
    wheel: Path, tmp_path: Path
) -> None:
    """In a folder with packages called `protos`, `serve` and so on that cannot be imported, all steps work."""
    site = tmp_path / "site"
    for name in DECOYS:
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").write_text(f"raise ImportError('the decoy {name}')\n")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, timeout=120)
    assert {path.name for path in site.iterdir()} == {*DECOYS, "unfreeze", "unfreeze-0.1.0.dist-info", "bin"}
    run = write_run(tmp_path)
    image = next((tmp_path / "images" / "val" / "red").iterdir())
    libraries = [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), *libraries])}
    command = [sys.executable, "-S", "-c", STEPS, str(run), str(tmp_path / "models"), str(image)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    places, exported, labels = done.stdout.splitlines()
    assert places == f"{site}/unfreeze/__init__.py {site}/unfreeze/tune/run.py"
    assert exported == str(tmp_path / "models" / "colors" / "1" / "model.onnx")
    assert sorted(json.loads(labels)) == ["blue", "green", "red"]
