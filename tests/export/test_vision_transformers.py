"""A tuned vision transformer is exported and answers like torch, whatever was trained and pooled."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from support.images import COLORS, write_images
from support.tuning import class_mean_options

import unfreeze
from unfreeze.export.options import ExportOptions
from unfreeze.export.run import export_model
from unfreeze.tune.artifacts.checkpoint import load_run
from unfreeze.tune.run import fine_tune

pytestmark = pytest.mark.xdist_group("export-vision-transformers")


def test_adapters_and_pooling_reach_the_exported_model(tmp_path: Path) -> None:
    """With merged adapters and class-mean pooling, the graph's probabilities are torch's; a device classifies files."""
    data = write_images(tmp_path / "data", 6)
    fine_tune(data, tmp_path / "run", class_mean_options(recipe="lora", cut="blocks.4"))
    published = export_model(tmp_path / "run", tmp_path / "models", "colors", ExportOptions(max_batch=4))
    network, facts = load_run(tmp_path / "run")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = torch.softmax(network(torch.from_numpy(pixels)) / facts.temperature, 1).numpy()
    (found,) = onnxruntime.InferenceSession(published.path).run(["probabilities"], {"pixels": pixels})
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with unfreeze.load_model(published.path) as model:
        probabilities = model.probabilities([(data / "red" / "000.jpg").read_bytes()])
        assert model.manifest.labels == tuple(COLORS)
    assert probabilities.shape == (1, 3)
