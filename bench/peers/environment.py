"""Virtual environments for peers whose packages conflict with the project's."""

import subprocess
import sys
import venv
from pathlib import Path


def peer_python(name: str, *requirements: str) -> Path:
    """Install a peer once.

    Args:
        name: name of the environment under `bench/out`.
        *requirements: pip requirements.

    Returns:
        The environment's Python.
    """
    folder = Path(__file__).parents[1] / "out" / name
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join([sys.version, *requirements])
    if not (installed.is_file() and installed.read_text() == wanted):
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        installed.write_text(wanted)
    return python
