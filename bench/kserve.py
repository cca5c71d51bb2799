"""Validate the KServe example with KServe's own package.

python -m bench.kserve

The package is installed into a separate environment under `bench/out`.
"""

import subprocess
import tempfile
from pathlib import Path

import cyclopts

from bench.peers.environment import peer_python
from unfreeze.console import RESULTS
from unfreeze.contract.model.kserve import kserve_yaml

_KSERVE = "kserve==0.21.*"
_SCRIPT = Path(__file__).parent / "peers" / "kserve_schema.py"


def main() -> None:
    """Write the example and validate it."""
    python = peer_python("kserve", _KSERVE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kserve.yaml"
        path.write_text(kserve_yaml("insects"))
        done = subprocess.run([python, _SCRIPT, path], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    RESULTS.print(done.stdout.strip(), markup=False)


if __name__ == "__main__":
    cyclopts.run(main)
