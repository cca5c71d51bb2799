"""The table that `unfreeze tune` prints."""

import io

import pytest
from rich.console import Console

from unfreeze.commands.tune import _table

SCORE = {"accuracy": 0.9, "standard_error": 0.01, "balanced_accuracy": 0.6, "balanced_standard_error": 0.05}
METRICS = {
    "backbone": "torchvision/resnet18",
    "recipe": "probe",
    "cut": "head",
    "images": {"train": 110, "val": 40},
    "skipped": [],
    "labels": ["ant", "bee"],
    "survey": [{"cut": "layer4", **SCORE}],
    "candidates": [{"recipe": "probe", "learning_rate": 0.0, "cut": "head", **SCORE}],
    "val_accuracy": 0.925,
    "val_balanced_accuracy": 0.75,
    "probe_val_accuracy": 0.9,
    "probe_val_balanced_accuracy": 0.5,
    "test_accuracy": 0.8,
    "test_balanced_accuracy": 0.7,
    "standard_errors": {
        "val_accuracy": 0.042,
        "val_balanced_accuracy": 0.1,
        "probe_val_accuracy": 0.05,
        "probe_val_balanced_accuracy": 0.0,
        "test_accuracy": 0.06,
        "test_balanced_accuracy": 0.07,
    },
    "val_classes": 2,
    "test_classes": 1,
    "calibration_error": {"before": 0.1, "after": 0.05},
    "abstain": None,
    "confusion": [[36, 0], [3, 1]],
    "per_class": {"ant": {"recall": 1.0, "precision": 0.92}, "bee": {"recall": 0.25, "precision": 1.0}},
    "trained_parameters": 10,
    "parameters": 100,
    "seconds": 1.0,
    "device": "cpu",
    "precision": "bfloat16",
}


def test_shows_accuracy_and_balanced_accuracy_with_their_standard_errors() -> None:
    """For the run, the probe, the test images, every cut and every candidate."""
    output = io.StringIO()
    Console(file=output, width=120).print(_table(METRICS))
    lines = [line.split("│") for line in output.getvalue().splitlines() if "│" in line]
    rows = {name.strip(): value.strip() for _, name, value, _ in lines}
    assert rows["validation accuracy"] == "0.9250 ± 0.0420; balanced 0.7500 ± 0.1000"
    assert rows["probe alone"] == "0.9000 ± 0.0500; balanced 0.5000 ± 0.0000"
    assert rows["test accuracy"] == "0.8000 ± 0.0600; balanced 0.7000 ± 0.0700 (1 of 2 classes have test images)"
    assert rows["frozen features at layer4"] == "0.900 ± 0.010; balanced 0.600 ± 0.050"
    assert rows["cross-validated: probe"] == "0.900 ± 0.010; balanced 0.600 ± 0.050"


@pytest.mark.parametrize(
    ("kept", "outcome"),
    [(True, "its answers are trained on"), (False, "not followed: the student alone is kept")],
)
def test_shows_what_became_of_a_teacher(kept: bool, outcome: str) -> None:  # noqa: FBT001
    """With its setting, and the cross-validated scores with and without it; nothing if it could not be judged."""
    identity = {"name": "flowers", "version": "3", "backbone": "timm/big", "unlabeled_images": 120}
    distillation = identity | {"kept": kept, "temperature": 2.0, "weight": 0.5, "own": SCORE, "taught": None}
    output = io.StringIO()
    Console(file=output, width=160).print(_table(METRICS | {"distillation": distillation}))
    assert (
        f"flowers 3 (timm/big): {outcome} (temperature 2, weight 0.5; 120 images without labels)" in output.getvalue()
    )
    assert "cross-validated: alone" in output.getvalue()
    assert "cross-validated: taught" not in output.getvalue()
