"""One's own modules: named as `package.module:function`, tuned, exported and loaded again."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from support.images import write_images

from unfreeze.contract.errors import WeightsError
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import export_model
from unfreeze.tune.artifacts.checkpoint import load_run
from unfreeze.tune.backbones.sources import Backbone, find_backbone
from unfreeze.tune.backbones.weights import load_pretrained
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune


@pytest.fixture(autouse=True)
def _current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module is a file in the current folder, as a user's beside the images would be."""
    shutil.copy(Path(__file__).with_name("own_modules.py"), tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_modules", raising=False)


def test_the_name_is_that_of_a_function() -> None:
    """It is recorded as it is written."""
    found = find_backbone("own_modules:declared")
    assert found == Backbone(source="module", name="own_modules:declared")
    assert str(found) == "own_modules:declared"


def test_an_input_size_is_enough_of_a_declaration() -> None:
    """The rest of the preprocessing is timm's default; the linear layer at the end is the stock classifier."""
    pretrained = load_pretrained("own_modules:declared", "none")
    spec = pretrained.spec
    assert (spec.resize, spec.crop, spec.interpolation) == ((54,), (32, 48), "bicubic")
    assert spec.mean == (0.485, 0.456, 0.406)
    network = pretrained.network("own_modules:declared", 3, torch.device("cpu"))
    assert network.block_names == ("stem", "middle", "top")
    assert not any(key.startswith("output.") for key in network.export_state())
    assert network(torch.zeros(2, 32, 48, 3, dtype=torch.uint8)).shape == (2, 3)


def test_a_configuration_as_timms_is_used() -> None:
    """Crop, filter, mean and standard deviation come from `pretrained_cfg`."""
    spec = load_pretrained("own_modules:configured", "none").spec
    assert (spec.resize, spec.crop, spec.interpolation) == ((50,), (40, 40), "bilinear")
    assert (spec.mean, spec.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_the_functions_optional_parameters_are_used() -> None:
    """`pretrained` chooses the weights, and `img_size` receives height and width."""
    default = load_pretrained("own_modules:configured", "default", image_size=24)
    assert default.model.built_for == (24, 24)
    assert torch.equal(default.model.stem[0].weight, torch.ones(4, 3, 3, 3))
    assert not torch.equal(
        load_pretrained("own_modules:configured", "none").model.stem[0].weight, torch.ones(4, 3, 3, 3)
    )


def test_a_module_without_a_classifier_ends_with_its_features() -> None:
    """Nothing is removed, and maps are pooled by the new head."""
    network = load_pretrained("own_modules:headless", "none").network("own_modules:headless", 3, torch.device("cpu"))
    assert network.block_names == ("0", "2")
    assert network.head.linear.in_features == 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "undeclared",
            r"returns a Small that declares no input size; set its attribute input_size to \(3, height, width\)",
        ),
        ("no_module", r"expected a torch\.nn\.Module, got Tensor"),
        ("failing", r"own_modules:failing failed: KeyError: .*no such file: weights\.pth"),
        ("not_a_function", "expected a function that returns a module, got int"),
        (
            "missing",
            r"cannot import 'missing' from 'own_modules' \(.*\); expected package\.module:function, importable",
        ),
    ],
)
def test_what_is_wrong_with_a_function_is_said(name: str, message: str) -> None:
    """What was found, and what was expected."""
    with pytest.raises(WeightsError, match=message):
        load_pretrained(f"own_modules:{name}", "none")


def test_a_module_that_cannot_be_imported_is_named() -> None:
    """The message says where it is looked for."""
    with pytest.raises(
        WeightsError, match=r"cannot import 'f' from 'no_such_package' \(No module named 'no_such_package'\)"
    ):
        load_pretrained("no_such_package:f", "none")


def test_a_module_is_tuned_exported_and_loaded(tmp_path: Path) -> None:
    """The run and the manifest name the function, through which the run is loaded; frozen weights are its own."""
    data = write_images(tmp_path / "data", 6)
    name = "own_modules:configured"
    options = TuneOptions(backbone=name, device="cpu", precision="fp32", cut="top", epochs=1, learning_rate=1e-3)
    metrics = fine_tune(data, tmp_path / "run", options)
    assert (metrics["backbone"], metrics["weights"], metrics["cut"]) == (name, "default", "top")
    network, facts = load_run(tmp_path / "run")
    assert network.block_names == ("stem", "middle", "top")
    assert facts.provenance.backbone == name
    assert torch.equal(network.export_state()["stem.0.weight"], torch.ones(4, 3, 3, 3))
    exported = export_model(tmp_path / "run", tmp_path / "models", "own", ExportOptions(max_batch=8))
    assert exported.manifest.provenance.backbone == name
    assert exported.manifest.proof.largest_difference < 1e-4
