"""An arm64 Debian in a folder, whose programs run under QEMU's user-mode emulation.

Debian's debootstrap downloads the packages; they are unpacked and not configured, which a Python that runs scripts
does not need. Programs are started as `chroot FOLDER qemu-aarch64-static PROGRAM`, in a mount namespace of their own,
so that neither binfmt_misc nor mounts of this machine are changed.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from bench.edge.processors import Processor
from unfreeze.contract.errors import UnfreezeError
from unfreeze.device.wheels import glibc_tags

SUITE, PYTHON = "bookworm", "3.11"
_DEBIAN = "python3-minimal,python3,libstdc++6,libgomp1"
_TOOLS = {"debootstrap": "debootstrap", "qemu-aarch64-static": "qemu-user-static"}
_LIBRARIES = "numpy", "pillow", "onnxruntime"
_CORES = 2
PACKAGES = f"/usr/local/lib/python{PYTHON}/dist-packages"
SOURCE, WORK = "/opt/source", "/opt/work"
_MOUNT = """
mount --bind /proc "$1/proc" && mount --bind "$2" "$1/proc/cpuinfo" && mount --bind /dev "$1/dev" || exit 1
cd / && exec chroot "$1" /qemu-aarch64-static "${@:3}"
"""


@dataclass(frozen=True, kw_only=True)
class ArmSystem:
    """An arm64 Debian.

    Args:
        root: its folder.
    """

    root: Path

    @property
    def work(self) -> Path:
        """The folder that programs in it know as `WORK`."""
        return self.root / WORK[1:]

    def python(
        self, *arguments: str, processor: Processor, trace: Path | None = None, seconds: float = 3600
    ) -> "subprocess.CompletedProcess[str]":
        """Run its Python.

        Args:
            arguments: of Python.
            processor: what is emulated.
            trace: receives the instructions that are executed, each once.
            seconds: time limit.

        Raises:
            UnfreezeError: the program failed.
        """
        cpuinfo = self.root / "opt" / f"cpuinfo-{processor.name}"
        cpuinfo.write_text(processor.cpuinfo(_CORES))
        tracing = () if trace is None else ("-d", "in_asm", "-D", f"{WORK}/{trace.name}")
        emulator = "-cpu", processor.name, *tracing, "/usr/bin/python3", "-I", *arguments
        shell = "unshare", "--mount", "--propagation", "private", "bash", "-c", _MOUNT, "bash"
        command = [*shell, str(self.root), str(cpuinfo), *emulator]
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment, check=False)
        if done.returncode:
            raise UnfreezeError(f"{arguments[0]} failed in the arm64 system: {done.stderr[-2000:]}")
        return done


def make_system(folder: Path, mirror: str | None) -> ArmSystem:
    """Make a system, or take the one that was made before.

    Args:
        folder: of the system.
        mirror: URL of a Debian mirror; None takes that of this machine's apt.

    Raises:
        UnfreezeError: a tool is missing, or a download failed.
    """
    root, complete = folder / "debian", folder / "debian" / "opt" / "complete"
    if not complete.exists():
        find_tools()
        shutil.rmtree(root, ignore_errors=True)
        _bootstrap(root, [mirror] if mirror else _own_mirror())
        _run(*pip_install(root / PACKAGES[1:], "aarch64"))
        complete.touch()
    source = root / SOURCE[1:]
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(Path(__file__).parents[2] / "unfreeze", source / "unfreeze", ignore=_only_python)
    (root / WORK[1:]).mkdir(exist_ok=True)
    return ArmSystem(root=root)


def find_tools() -> None:
    """Check that the tools are installed; install them with apt-get if they are not.

    Raises:
        UnfreezeError: they cannot be installed.
    """
    missing = [package for program, package in _TOOLS.items() if shutil.which(program) is None]
    if os.geteuid() or (missing and shutil.which("apt-get") is None):
        raise UnfreezeError(
            "an arm64 system needs root (chroot and mount), and Debian's packages debootstrap and qemu-user-static; "
            "run the command in a virtual machine of Debian or Ubuntu, as root"
        )
    if missing:
        _run("apt-get", "update", "--quiet")
        _run("apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *missing)


def pip_install(target: Path, machine: str) -> list[str]:
    """Return the command that installs the device's libraries for another machine, in the versions of this one."""
    return [*_pip("install", machine), "--target", str(target), *_pinned()]


def wheels_exist(machine: str) -> dict[str, bool]:
    """Return for which of the device's libraries the package index has a wheel for a machine."""
    found = {}
    for library in _LIBRARIES:
        command = [*_pip("download", machine), "--no-deps", "--dest", "/tmp/unfreeze-wheels", library]  # noqa: S108
        found[library] = subprocess.run(command, capture_output=True, check=False).returncode == 0
    shutil.rmtree("/tmp/unfreeze-wheels", ignore_errors=True)  # noqa: S108
    return found


def _pip(what: str, machine: str) -> list[str]:
    platforms = [word for tag in (*glibc_tags(machine), f"linux_{machine}") for word in ("--platform", tag)]
    kind = "--python-version", PYTHON, "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none"
    return [sys.executable, "-m", "pip", what, "--quiet", "--only-binary", ":all:", *platforms, *kind]


def _pinned() -> list[str]:
    return [f"{library}=={version(library)}" for library in _LIBRARIES]


def _bootstrap(root: Path, mirror: list[str]) -> None:
    """Download Debian's packages and unpack them."""
    first = "debootstrap", "--arch=arm64", "--foreign", "--variant=minbase", f"--include={_DEBIAN}"
    _run(*first, SUITE, str(root), *mirror)
    for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        _run("dpkg-deb", "--extract", str(package), str(root))
    emulator = shutil.which("qemu-aarch64-static")
    assert emulator is not None  # noqa: S101 - find_tools has found it
    shutil.copy(emulator, root)
    processors = root / "sys/devices/system/cpu"  # ONNX Runtime reads the number of cores here
    processors.mkdir(parents=True, exist_ok=True)
    for name in ("possible", "present", "online"):
        (processors / name).write_text(f"0-{_CORES - 1}\n")


def _own_mirror() -> list[str]:
    """Return the Debian mirror of this machine's apt; nothing, for debootstrap's own, if there is none."""
    command = "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return [uri for uri in listed.stdout.split() if uri.rstrip("/").endswith("/debian")][:1]


def _only_python(_folder: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if name == "__pycache__"]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnfreezeError(f"{' '.join(command)[:200]} failed: {(done.stderr or done.stdout)[-1000:]}")
