"""What serving and predicting load, each seen in a fresh process."""

import json
import subprocess
import sys
from pathlib import Path

from unfreeze.export.run import Published

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


def test_a_server_loads_no_training_stack() -> None:
    """`import unfreeze.serve.server` loads neither torch nor onnx nor scikit-learn."""
    loaded = _loaded("import unfreeze.serve.server")
    assert {"grpc", "onnxruntime", "unfreeze.serve"} <= loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_command_starts_light() -> None:
    """`import unfreeze.command`, which `unfreeze serve` and `unfreeze predict` begin with, loads none of it either."""
    assert _loaded("import unfreeze.command").isdisjoint({*HEAVY, "onnxruntime"} - {"unfreeze.tune"})


def test_a_client_needs_grpc_alone() -> None:
    """`unfreeze.Client` loads no runtime."""
    loaded = _loaded("import unfreeze; unfreeze.Client('localhost:1').close()")
    assert loaded.isdisjoint({*HEAVY, "onnxruntime"})


def test_a_device_needs_numpy_pillow_and_onnx_runtime_alone(published: Published, tmp_path: Path) -> None:
    """`unfreeze.load` predicts where no other package can be imported."""
    image = tmp_path / "image.png"
    from PIL import Image

    Image.new("RGB", (50, 40), (200, 30, 30)).save(image)
    missing = (*HEAVY, "grpc", "google", "rich", "cyclopts", "jaxtyping", "beartype", "unfreeze.protos")
    code = f"""
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name in {missing!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nothing())
import unfreeze
with unfreeze.load_model({str(published.path)!r}) as model:
    (answer,) = model.predict([{str(image)!r}], top=2)
assert len(answer) == 2 and 0 < answer[0].score <= 1, answer
"""
    assert {"numpy", "PIL", "onnxruntime"} <= _loaded(code)
