"""The generated code matches the .proto files."""

import subprocess
import sys
from pathlib import Path


def test_generated_code_is_up_to_date() -> None:
    """`python -m unfreeze.protos.generate --check` finds no difference."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "unfreeze.protos.generate", "--check"],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
