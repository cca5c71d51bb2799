"""Try a model on this device before it is used: in a process of its own, because its graph might crash it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from unfreeze.contract.cores import usable_cores
from unfreeze.contract.errors import RefusedVersionError, UnfreezeError
from unfreeze.device.opening import open_model
from unfreeze.device.optimized import open_optimized
from unfreeze.device.terminal import write_json_line
from unfreeze.serve.runtimes.golden import verify_answers

TIMEOUT_S = 600.0
_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from unfreeze.device.trial import main
main(*sys.argv[2:])
"""
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)


def try_model(path: Path, optimized: Path) -> None:
    """Load a model and classify its golden images; then save its optimized graph for the programs that use it.

    Args:
        path: of a `model.onnx`.
        optimized: folder for the optimized graph.

    Raises:
        RefusedVersionError: it does not load, answers differently than at export, or crashes.
        UnfreezeError: the trial was ended from outside, for example because memory was short, or took too long.
    """
    command = [sys.executable, "-I", "-c", _START, json.dumps(sys.path), str(path), str(optimized)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)  # noqa: S603 - our own
    except subprocess.TimeoutExpired as error:
        raise UnfreezeError(f"the golden images were not classified within {TIMEOUT_S:.0f} seconds") from error
    for line in done.stdout.splitlines():
        if (refusal := json.loads(line)["error"]) is not None:
            raise RefusedVersionError(refusal)
        return  # what happens after the answer is about the optimized graph alone
    if -done.returncode in _CRASHES:
        raise RefusedVersionError(f"classifying the golden images crashed with {signal.Signals(-done.returncode).name}")
    details = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
    raise UnfreezeError(f"the golden images could not be tried: {details[0]:.300}")


def main(path: str, optimized: str) -> None:
    """Try a model in this process, and write the result as one line of JSON: `error` is null, or says what failed."""
    try:
        with open_model(Path(path), cache=False) as model:
            verify_answers(model, "the model")
            manifest = model.manifest
    except UnfreezeError as error:
        write_json_line({"error": str(error)})
        return
    write_json_line({"error": None})
    open_optimized(Path(path), manifest, usable_cores(), Path(optimized))
