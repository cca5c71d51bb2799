"""`bundle`: a folder for a device with a model, the programs, the modules that they import, and what explains them."""

import re
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
import PIL

from unfreeze.contract.errors import OptionsError, UnfreezeError
from unfreeze.contract.model.repository import INDEX_FILE, MODEL_FILE
from unfreeze.contract.versions import installed_versions
from unfreeze.device.bundle_texts import archive_main, programs, readme, units
from unfreeze.device.modules import find_modules
from unfreeze.device.opening import open_model
from unfreeze.device.signature import read_public_key
from unfreeze.device.versions import VersionFile, version_files
from unfreeze.device.wheels import PLATFORMS, download_wheels
from unfreeze.serve.runtimes.golden import verify_answers

PlatformName = Literal["any", "linux-aarch64", "linux-x86_64"]
ENTRIES = ("unfreeze.device.programs",)
ARCHIVE = "app.pyz"
_OLDEST_PYTHON = "3.11"
_DATE = (1980, 1, 1, 0, 0, 0)  # of files in the archive: the same bundle has the same bytes


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """What a bundle contains.

    Args:
        platform: of the device, for wheels; "any" adds no binary.
        with_wheels: add the wheels of the libraries, for devices without a package index.
        python: version of Python on the device, "MAJOR.MINOR", for wheels; empty for the one that is running.
        public_key: PEM file of the key that `pull` requires new versions to be signed with.
        source: that `pull` takes new versions from, for its unit.

    Raises:
        OptionsError: wheels for "any", no version of Python, the key is missing, or the source has a line break.
    """

    platform: PlatformName = "any"
    with_wheels: bool = False
    python: str = ""
    public_key: Path | None = None
    source: str = ""

    def __post_init__(self) -> None:
        """Validate once, at construction."""
        if self.with_wheels and self.platform == "any":
            raise OptionsError(f"--with-wheels needs --platform, one of {', '.join(PLATFORMS)}: wheels are binaries")
        if self.python and re.fullmatch(r"3\.\d{1,2}", self.python) is None:
            raise OptionsError(f"--python must be like 3.11, got {self.python!r}")
        if self.public_key is not None and not self.public_key.is_file():
            raise OptionsError(f"--public-key: no such file: {self.public_key}")
        if not self.source.isprintable():
            raise OptionsError(f"--source must be a path or a URL in one line, got {self.source!r:.100}")


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that was written.

    Args:
        folder: of the bundle.
        model: name of the model.
        version: of the model.
        modules: number of modules.
        bytes: size of all files.
        requirements: the libraries, as `requirements.txt` lists them.
    """

    folder: Path
    model: str
    version: int
    modules: int
    bytes: int
    requirements: tuple[str, ...]


def write_bundle(model: Path, out: Path, options: BundleOptions) -> Bundle:
    """Write a bundle; the model must give its golden answers with the libraries that are installed here.

    Args:
        model: a `model.onnx`, the folder of a version, or the folder of a model, for its newest version.
        out: the folder to write, which must not exist.
        options: what else it contains.

    Raises:
        UnfreezeError: the folder exists, the model fails its golden images, the key is not a public one, or wheels
            cannot be fetched.
    """
    if options.public_key is not None:
        read_public_key(options.public_key)  # a private one must not reach a device
    if out.exists() or out.is_symlink():
        raise UnfreezeError(f"{out} exists already; give another folder, or remove it")
    version = version_files(model)[0]
    with open_model(version.path, cache=False) as opened:
        verify_answers(opened, str(version.path))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        staged = Path(temporary) / out.name
        staged.mkdir()
        bundle = _fill(staged, version, options)
        staged.rename(out)
    return Bundle(**vars(bundle) | {"folder": out})


def requirements(*, signed: bool) -> tuple[str, ...]:
    """List the libraries that a device needs, in the versions that run here.

    Args:
        signed: whether signatures are checked there.
    """
    versions = {"numpy": np.__version__, "pillow": PIL.__version__, "onnxruntime": onnxruntime.__version__}
    versions |= installed_versions("cryptography", "cffi", "pycparser") if signed else {}
    return tuple(f"{name}=={number}" for name, number in versions.items())


def _fill(folder: Path, version: VersionFile, options: BundleOptions) -> Bundle:
    name, number = _copy_model(version, folder / "models")
    signed = options.public_key is not None
    needed = requirements(signed=signed)
    modules = {path: file.read_bytes() for path, file in sorted(find_modules(ENTRIES).files.items())}
    for path, content in modules.items():
        _write(folder / "lib" / path, content)
    _write_archive(folder / ARCHIVE, {"__main__.py": archive_main(name).encode(), **modules})
    for program, text in programs(name).items():
        _write(folder / program, text.encode())
        (folder / program).chmod(0o755)
    for unit, text in units(name, options.source).items():
        _write(folder / "systemd" / unit, text.encode())
    _write(folder / "requirements.txt", "".join(f"{one}\n" for one in needed).encode())
    if options.public_key is not None:
        _write(folder / "public.pem", options.public_key.read_bytes())
    if options.with_wheels:
        download_wheels(folder / "requirements.txt", folder / "wheels", options.platform, options.python)
    page = readme(name, number, options.python or _OLDEST_PYTHON, wheels=options.with_wheels, signed=signed)
    _write(folder / "README.md", page.encode())
    return Bundle(
        folder=folder,
        model=name,
        version=number,
        modules=len(modules),
        bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        requirements=needed,
    )


def _copy_model(version: VersionFile, models: Path) -> tuple[str, int]:
    """Copy a version with all its files, which its digests and its signature are about; return its name and number."""
    if version.number is not None:
        shutil.copytree(version.path.parent, models / version.model / str(version.number))
        return version.model, version.number
    name = version.path.resolve().parent.name or "model"
    content = version.path.read_bytes()
    _write(models / name / "1" / MODEL_FILE, content)
    _write(models / name / "1" / INDEX_FILE, f"{sha256(content).hexdigest()}  {MODEL_FILE}\n".encode())
    return name, 1


def _write_archive(path: Path, files: dict[str, bytes]) -> None:
    with path.open("wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_DEFLATED)
    path.chmod(0o755)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
