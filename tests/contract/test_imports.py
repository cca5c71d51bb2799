"""What a device has: numpy and Pillow, and nothing heavier."""

import json
import subprocess
import sys

MODULES = [
    "arrays",
    "errors",
    "files",
    "manifest",
    "options",
    "prediction",
    "preprocess",
    "reporting",
    "repository",
    "schema",
]


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_contract_is_light() -> None:
    """Importing all of `contract` loads neither torch nor any other part of the training or serving stack."""
    imports = "".join(f"import unfreeze.contract.{name}\n" for name in MODULES)
    loaded = json.loads(_run(f"{imports}import json, sys\nprint(json.dumps(sorted(sys.modules)))"))
    heavy = {
        "torch",
        "torchvision",
        "sklearn",
        "scipy",
        "safetensors",
        "onnx",
        "onnxruntime",
        "grpc",
        "google.protobuf",
    }
    ours = {"unfreeze.tune", "unfreeze.export", "unfreeze.serve", "unfreeze.protos"}
    assert {"numpy", "PIL", "unfreeze.contract.images.preprocess"} <= set(loaded)
    assert not (heavy | ours) & set(loaded)


def test_the_contract_does_without_jaxtyping() -> None:
    """Where jaxtyping is not installed, images are prepared and manifests are read all the same."""
    imports = "".join(f"import unfreeze.contract.{name}\n" for name in MODULES)
    code = f"""
import sys
sys.modules["jaxtyping"] = None
{imports}
import io
from PIL import Image
file = io.BytesIO()
Image.new("RGB", (9, 8), (10, 20, 30)).save(file, "PNG")
spec = unfreeze.contract.images.preprocess.PreprocessSpec(resize=(4,), crop=(4, 4))
made = unfreeze.contract.images.preprocess.prepare(file.getvalue(), spec)
print(made.shape, made[0, 0].tolist())
"""
    assert _run(code) == "(4, 4, 3) [10, 20, 30]\n"
