"""The names that `import unfreeze` offers."""

import subprocess
import sys
from pathlib import Path

import pytest

import unfreeze

PUBLIC = {
    "AsyncClient",
    "Classification",
    "Client",
    "CompareOptions",
    "Comparison",
    "ExportOptions",
    "LocalClassifier",
    "Manifest",
    "Prediction",
    "PreprocessSpec",
    "Published",
    "TuneOptions",
    "UnfreezeError",
    "compare_backbones",
    "export_model",
    "fine_tune",
    "load_model",
    "prepare",
}


def test_all_lists_the_public_names() -> None:
    """`__all__` and `dir` list the same names, and each can be imported and has a docstring."""
    assert set(unfreeze.__all__) == PUBLIC
    assert dir(unfreeze) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(unfreeze, name).__doc__


def test_type_checkers_see_the_same_names() -> None:
    """The imports that only type checkers see are the same objects as those of `__getattr__`."""
    source = Path(unfreeze.__file__).read_text("utf-8").replace("if TYPE_CHECKING:", "if True:", 1)
    names: dict[str, object] = {"__name__": "unfreeze"}
    exec(compile(source, unfreeze.__file__, "exec"), names)  # noqa: S102 - our own module
    assert {name: names[name] for name in PUBLIC} == {name: getattr(unfreeze, name) for name in PUBLIC}


def test_unknown_name_is_an_attribute_error() -> None:
    """As for any module."""
    with pytest.raises(AttributeError, match="module 'unfreeze' has no attribute 'fly'"):
        _ = unfreeze.fly


def test_import_loads_no_third_party_package() -> None:
    """`import unfreeze` alone needs none of the extras and takes no time."""
    code = "import sys, unfreeze; print([n for n in ('numpy', 'torch', 'grpc', 'onnxruntime') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
