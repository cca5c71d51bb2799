"""Fetch the wheels of a device's libraries with pip."""

import subprocess
import sys
from pathlib import Path

from unfreeze.contract.errors import UnfreezeError

_GLIBC = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_26", "manylinux_2_24", "manylinux_2_17", "manylinux2014")


def glibc_tags(machine: str) -> list[str]:
    """Return the platform tags of wheels for Linux with glibc 2.28 or newer, newest first."""
    return [f"{one}_{machine}" for one in _GLIBC]


PLATFORMS = {f"linux-{machine}": glibc_tags(machine) for machine in ("aarch64", "x86_64")}


def download_wheels(requirements: Path, folder: Path, platform: str, python: str) -> None:
    """Download the wheels of a platform, which may be another one than this machine's.

    Args:
        requirements: file with one library a line.
        folder: for the wheels.
        platform: one of `PLATFORMS`.
        python: version of Python, "MAJOR.MINOR"; empty for the one that is running.

    Raises:
        UnfreezeError: pip is missing or cannot fetch one of them.
    """
    python = python or f"{sys.version_info.major}.{sys.version_info.minor}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += [f"--python-version={python}", *(f"--platform={tag}" for tag in PLATFORMS[platform])]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()[-300:]]
        raise UnfreezeError(
            f"pip cannot fetch the wheels for {platform} and Python {python} ({errors[-1]}); leave out --with-wheels, "
            "and install requirements.txt on the device"
        )
