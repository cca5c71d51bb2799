"""The generated code is what the .proto sources give."""

import subprocess
import sys
from pathlib import Path


def test_regenerating_changes_nothing() -> None:
    """`python -m unfreeze.protos.generate --check` finds the generated files up to date."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "unfreeze.protos.generate", "--check"],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
