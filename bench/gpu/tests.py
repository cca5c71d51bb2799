"""The tests marked `gpu`, as a part of `bench.gpu`."""

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from bench.gpu.part import FAILED, Part

_NEEDED = ("pytest", "pytest_timeout", "jaxtyping", "beartype")
_TESTS = Path("tests")


def measure(part: Part) -> None:
    """Run the tests if the packages that they need are installed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        part.left_out("the tests marked gpu", f"not installed: {', '.join(missing)}")
        return
    run_tests(part, marked_files(_TESTS))


def marked_files(folder: Path) -> list[Path]:
    """List the files with such tests; others may need packages that are not installed."""
    return [file for file in sorted(folder.rglob("test_*.py")) if "mark.gpu" in file.read_text("utf-8")]


def run_tests(part: Part, files: Sequence[Path]) -> None:
    """Run the tests of some files; record how many passed and why the others did not.

    Args:
        part: part that records the results.
        files: test files.
    """
    results = Path(part.setting.folder) / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-m", "gpu", "--junitxml", results]
    done = subprocess.run([*command, "--continue-on-collection-errors", *files], stdout=sys.stderr, check=False)
    if not results.exists():
        part.note(FAILED, what="the tests marked gpu", reason=f"pytest exited with code {done.returncode}")
        return
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for case in ET.parse(results).iter("testcase"):  # noqa: S314 - pytest has just written it
        name = case.get("name", "")
        outcome = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        if outcome is None:
            counts["passed"] += 1
        elif outcome.tag == "skipped":
            counts["skipped"] += 1
            part.left_out(name, outcome.get("message", ""))
        else:
            counts["failed"] += 1
            part.note(FAILED, what=name, reason=outcome.get("message", "")[:200])
    part.note("tests", **counts)
