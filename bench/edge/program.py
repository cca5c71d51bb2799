"""Runs in the arm64 system, with the three libraries of a device alone: prints one line of JSON for what it is asked.

python3 -I program.py verify MODEL
python3 -I program.py answers MODEL IMAGES OUT.npy
python3 -I program.py one MODEL IMAGE
python3 -I program.py bundle FOLDER IMAGE
"""

import io
import json
import runpy
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout, suppress

SOURCE = "/opt/source"


def verify(model: str) -> dict[str, object]:
    """Verify a model with its golden images."""
    sys.path.insert(0, SOURCE)
    from unfreeze.serve.models.verification import verify as check

    found = check(model)
    return {"golden": found.golden, "difference": found.largest_difference, "tolerance": found.tolerance}


def answers(model: str, images: str, out: str) -> dict[str, object]:
    """Classify all images of a folder, in the order of their names, and save the probabilities."""
    sys.path.insert(0, SOURCE)
    from pathlib import Path

    import numpy as np

    import unfreeze

    files = sorted(str(file) for file in Path(images).iterdir())
    with unfreeze.load_model(model) as classifier:
        started = time.monotonic()
        np.save(out, classifier.probabilities(files))
    return {"images": len(files), "seconds": time.monotonic() - started}


def one(model: str, image: str) -> dict[str, object]:
    """Classify one image, and say where ONNX Runtime's code lies in memory."""
    sys.path.insert(0, SOURCE)
    import unfreeze

    with unfreeze.load_model(model) as classifier:
        classifier.predict([image])
    with open("/proc/self/maps") as file:  # noqa: PTH123
        maps = [line.split()[0] for line in file if "onnxruntime_pybind11_state" in line]
    ends = [[int(end, 16) for end in area.split("-")] for area in maps]
    return {"peak_mb": _peak_mb(), "runtime": ends}


def bundle(folder: str, image: str) -> dict[str, object]:
    """Run a bundle's `classify` on an image, with its own modules."""
    out = io.StringIO()
    sys.argv = ["classify", image]
    with redirect_stdout(out), suppress(SystemExit):
        runpy.run_path(f"{folder}/classify", run_name="__main__")
    return {"answer": json.loads(out.getvalue()), "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    with open("/proc/self/status") as file:  # noqa: PTH123
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1000


if __name__ == "__main__":
    programs: dict[str, Callable[..., dict[str, object]]] = {
        "verify": verify,
        "answers": answers,
        "one": one,
        "bundle": bundle,
    }
    print(json.dumps(programs[sys.argv[1]](*sys.argv[2:])))  # noqa: T201
