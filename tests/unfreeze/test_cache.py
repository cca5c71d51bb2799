"""`unfreeze cache` shows what the store holds, and deletes it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.cli import run_cli
from support.stores import AMPLE, key_of, size_of

from unfreeze.compare.stored import StoredResults, comparisons_folder, list_results
from unfreeze.serve.runtimes.base import RuntimeOptions
from unfreeze.serve.runtimes.chosen import Choice, Conditions, read_choice, write_choice
from unfreeze.tune.store.folder import store_folder
from unfreeze.tune.store.store import FeatureStore

DESCRIBED = {
    "backbone": "torchvision/resnet18",
    "weights": "0123456789abcdef" * 4,
    "blocks": ["conv1", "layer1", "layer2"],
    "preprocess": {"crop": [224, 192]},
    "precision": "bfloat16",
}


@pytest.fixture
def filled(cache_folder: Path) -> Path:
    """Store three images at two cuts, and two inspected ones."""
    keys = [key_of(one) for one in range(3)]
    with FeatureStore(AMPLE) as store:
        space = store.space(DESCRIBED)
        space.add(keys, {"activations.1.bfloat16": np.zeros((3, 4), np.uint16)})
        space.add(keys[:2], {"features": np.zeros((2, 8), np.float32)})
        store.space({"kind": "inspection"}).add(keys[:2], {"thumbnail": np.zeros((2, 3), np.uint8)})
    return cache_folder


def test_shows_what_is_stored(filled: Path) -> None:
    """Spaces with backbone, weights, size, precision, cuts, images and bytes; the folder, the total and the bound."""
    found = json.loads(run_cli("cache", "--json").stdout)
    assert found["folder"] == str(store_folder()) == str(filled / "features")
    assert found["bytes"] == sum(space["size_bytes"] for space in found["spaces"])
    assert found["bytes"] == size_of(filled) - sum(path.stat().st_size for path in filled.rglob("space.json"))
    assert found["bound_bytes"] == 10_000_000_000
    shown = {space["backbone"]: space for space in found["spaces"]}
    network = shown["torchvision/resnet18"]
    assert network["weights"] == "0123456789ab"
    assert network["image_size"] == [224, 192]
    assert network["precision"] == "bfloat16"
    assert network["cuts"] == ["layer1", "head"]
    assert network["images"] == 3
    assert time.time() - network["last_used"] < 600
    assert (shown["inspection"]["images"], shown["inspection"]["cuts"]) == (2, [])
    table = run_cli("cache").stdout
    assert "bfloat16" in table
    assert "layer1" in table
    assert f"{filled / 'features'}: 0.00 GB" in table


def test_an_empty_store_is_shown(cache_folder: Path) -> None:
    """A folder that does not exist is not created."""
    found = json.loads(run_cli("cache", "--json").stdout)
    assert (found["spaces"], found["bytes"]) == ([], 0)
    assert not list(cache_folder.iterdir())


def test_clears_the_store(filled: Path) -> None:
    """All of it, or what was not used for some days."""
    for path in filled.rglob("*"):
        if path.is_file() and "inspection" in (path.parent / "space.json").read_text():
            then = time.time() - 5 * 86_400
            os.utime(path, (then, then))
    found = json.loads(run_cli("cache", "--clear", "--older-than", "4", "--json").stdout)
    assert [space["backbone"] for space in found["spaces"]] == ["torchvision/resnet18"]
    assert found["freed_bytes"] > 0
    done = run_cli("cache", "--clear")
    assert "0.0 MB deleted" in done.stdout
    assert size_of(filled) == 0


def test_shows_and_clears_results_of_comparisons(cache_folder: Path) -> None:
    """Those that were not used for some days, or all; reading one counts as use."""
    results = StoredResults(folder=comparisons_folder())
    for number in range(3):
        results.store("latency", {"number": number}, {"milliseconds": 1.0})
    for path in list_results(results.folder):
        then = time.time() - 5 * 86_400
        os.utime(path, (then, then))
    assert results.load("latency", {"number": 1}) == {"milliseconds": 1.0}
    shown = json.loads(run_cli("cache", "--json").stdout)["comparisons"]
    assert shown == {"folder": str(cache_folder / "compare"), "results": 3}
    found = json.loads(run_cli("cache", "--clear", "--older-than", "4", "--json").stdout)
    assert found["comparisons"]["results"] == 1
    assert found["freed_bytes"] > 0
    assert results.load("latency", {"number": 1}) is not None
    assert "0 results of comparing backbones" in run_cli("cache", "--clear").stdout
    assert list_results(results.folder) == ()


def test_a_time_without_clear_is_wrong_usage(cache_folder: Path) -> None:  # noqa: ARG001
    """Nothing would be deleted."""
    done = run_cli("cache", "--older-than", "4")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: --older-than says what --clear deletes; give both of them"


def test_needs_no_torch(filled: Path) -> None:  # noqa: ARG001
    """It starts at once."""
    code = (
        "import sys; from unfreeze.command import app; app(['cache'], result_action='return_value'); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_shows_and_clears_choices_of_runtimes(cache_folder: Path) -> None:
    """What --device auto has chosen is counted, and deleted if it was not used."""
    conditions = Conditions.here("0" * 64, ("cpu", "openvino"), 8, RuntimeOptions())
    write_choice(Choice(runtime="openvino", images_per_second={}, refused={}, conditions=conditions))
    shown = json.loads(run_cli("cache", "--json").stdout)["runtimes"]
    assert shown == {"folder": str(cache_folder / "runtimes"), "choices": 1}
    os.utime(conditions.path, (1, 1))
    assert read_choice(conditions) is not None  # marks it as used
    assert json.loads(run_cli("cache", "--clear", "--older-than", "1", "--json").stdout)["runtimes"]["choices"] == 1
    os.utime(conditions.path, (1, 1))
    assert json.loads(run_cli("cache", "--clear", "--older-than", "1", "--json").stdout)["runtimes"]["choices"] == 0
    assert read_choice(conditions) is None
