"""Clients without our Python package: Node.js with the .proto file, and Python with server reflection only.

The Node.js test needs the packages @grpc/grpc-js and @grpc/proto-loader. It looks for them in the folder that the
environment variable UNFREEZE_NODE_MODULES names, else in `tests/node_modules`.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from unfreeze.export.run import Published
from unfreeze.serve.client.local import LocalClassifier

pytestmark = pytest.mark.xdist_group("serve")

Completed: TypeAlias = "subprocess.CompletedProcess[str]"
Run: TypeAlias = Callable[..., Completed]
PROGRAMS = Path(__file__).parent / "other_languages"
PROTO = Path(__file__).parents[3] / "protos" / "unfreeze.proto"
NODE_MODULES = Path(os.environ.get("UNFREEZE_NODE_MODULES", PROGRAMS.parents[2] / "node_modules"))
NODE_PACKAGES = ("@grpc/grpc-js", "@grpc/proto-loader")


def _run_node(target: str, *arguments: object) -> Completed:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    missing = [package for package in NODE_PACKAGES if not (NODE_MODULES / package).is_dir()]
    if missing:
        pytest.skip(f"{NODE_MODULES} lacks {' and '.join(missing)}; `make test` installs them where there is npm")
    environment = os.environ | {"NODE_PATH": str(NODE_MODULES), "UNFREEZE_PROTO": str(PROTO)}
    return _run([node, PROGRAMS / "classify.js", target, *arguments], environment)


def _run_reflection(target: str, *arguments: object) -> Completed:
    isolated = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return _run([sys.executable, PROGRAMS / "classify_by_reflection.py", target, *arguments], isolated)


def _run(command: list[object], environment: dict[str, str]) -> Completed:
    return subprocess.run(
        [str(argument) for argument in command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )


@pytest.fixture
def files(images: list[bytes], tmp_path: Path) -> list[Path]:
    """Three image files."""
    paths = [tmp_path / f"{number}.image" for number in range(3)]
    for path, image in zip(paths, images, strict=False):
        path.write_bytes(image)
    return paths


@pytest.fixture(params=[_run_node, _run_reflection], ids=["node", "reflection"])
def run(request: pytest.FixtureRequest) -> Run:
    """A client program: it prints file, label and score, or the status and the message of an error."""
    program: Run = request.param
    return program


def test_other_clients_get_the_labels_of_the_local_model(
    run: Run, target: str, files: list[Path], published: Published
) -> None:
    """Labels and scores are those of in-process inference."""
    done = run(target, "colors", *files)
    assert done.returncode == 0, done.stderr
    with LocalClassifier(published.path) as local:
        expected = local.predict(files, top_k=2)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[:2] for row in rows] == [
        [str(file), one.label] for file, predictions in zip(files, expected, strict=True) for one in predictions
    ]
    scores = [one.score for predictions in expected for one in predictions]
    assert [float(row[2]) for row in rows] == pytest.approx(scores, abs=1e-4)


def test_other_clients_report_the_status_of_an_error(run: Run, target: str, files: list[Path]) -> None:
    """An unknown model is an error with the server's message."""
    done = run(target, "unknown", *files)
    assert (done.returncode, done.stdout) == (1, "")
    assert "NOT_FOUND: unknown model 'unknown'; loaded models: colors" in done.stderr
