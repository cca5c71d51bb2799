"""The modules that serving and predicting import, each in a new process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from unfreeze.export.run import Published

pytestmark = pytest.mark.xdist_group("serve")

HEAVY = (
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "sklearn",
    "scipy",
    "safetensors",
    "unfreeze.tune",
    "unfreeze.export",
)


def _loaded(code: str) -> set[str]:
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_a_server_imports_no_training_stack() -> None:
    """`import unfreeze.serve.server` imports neither torch nor onnx nor scikit-learn, and no runtime."""
    loaded = _loaded("import unfreeze.serve.server")
    assert {"grpc", "unfreeze.serve"} <= loaded
    assert loaded.isdisjoint({*HEAVY, "onnxruntime"})


def test_the_command_imports_no_heavy_library() -> None:
    """Heavy libraries are imported by the subcommands that need them."""
    assert _loaded("import unfreeze.command").isdisjoint({*HEAVY, "onnxruntime"} - {"unfreeze.tune"})


def test_a_client_imports_no_runtime() -> None:
    """`unfreeze.Client` needs gRPC, but no runtime."""
    loaded = _loaded("import unfreeze; unfreeze.Client('localhost:1').close()")
    assert loaded.isdisjoint({*HEAVY, "onnxruntime"})


def test_a_device_needs_only_numpy_pillow_and_onnx_runtime(published: Published, tmp_path: Path) -> None:
    """`unfreeze.load` predicts if no other package can be imported."""
    image = tmp_path / "image.png"
    from PIL import Image

    Image.new("RGB", (50, 40), (200, 30, 30)).save(image)
    missing = (*HEAVY, "grpc", "google", "rich", "cyclopts", "jaxtyping", "beartype", "unfreeze.protos")
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in {missing!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import unfreeze
with unfreeze.load_model({str(published.path)!r}) as model:
    (predictions,) = model.predict([{str(image)!r}], top_k=2)
assert len(predictions) == 2 and 0 < predictions[0].score <= 1, predictions
"""
    assert {"numpy", "PIL", "onnxruntime"} <= _loaded(code)
