"""What a device has: numpy and Pillow, and nothing heavier."""

import json
import pkgutil
import subprocess
import sys

import unfreeze.contract

MODULES = [module.name for module in pkgutil.walk_packages(unfreeze.contract.__path__, "unfreeze.contract.")]
IMPORTS = "".join(f"import {name}\n" for name in MODULES)
HEAVY = {
    "torch",
    "torchvision",
    "sklearn",
    "scipy",
    "safetensors",
    "onnx",
    "onnxruntime",
    "grpc",
    "google.protobuf",
    "pillow_heif",
    "unfreeze.tune",
    "unfreeze.export",
    "unfreeze.serve",
    "unfreeze.protos",
}


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_contract_imports_nothing_heavy() -> None:
    """Importing all of `contract` loads neither torch nor any other part of the training or serving stack."""
    loaded = json.loads(_run(f"{IMPORTS}import json, sys\nprint(json.dumps(sorted(sys.modules)))"))
    assert {"numpy", "PIL", *MODULES} <= set(loaded)
    assert len(MODULES) > 20
    assert not HEAVY & set(loaded)


def test_the_contract_works_without_jaxtyping() -> None:
    """Where jaxtyping is not installed, images are prepared and manifests are read all the same."""
    code = f"""
import sys
sys.modules["jaxtyping"] = None
{IMPORTS}
import io
from PIL import Image
file = io.BytesIO()
Image.new("RGB", (9, 8), (10, 20, 30)).save(file, "PNG")
spec = unfreeze.contract.images.preprocess.PreprocessSpec(resize=(4,), crop=(4, 4))
made = unfreeze.contract.images.preprocess.prepare(file.getvalue(), spec)
print(made.shape, made[0, 0].tolist())
"""
    assert _run(code) == "(4, 4, 3) [10, 20, 30]\n"
