"""Classification of labeled images in full precision."""

from pathlib import Path

import pytest
import torch
from support.runs import SPEC
from support.tiny_networks import hidden_layers
from support.tuning import training_images

from unfreeze.tune.backbones.network import Network
from unfreeze.tune.evaluation.evaluate import evaluate, evaluate_together


@pytest.mark.parametrize("cut", ["0", "4", "6", "head"])
def test_shared_blocks_may_end_with_features_that_are_not_the_last(cut: str, tmp_path: Path) -> None:
    """Wherever the shared blocks end, also between two linear layers, the logits are those of the whole network."""
    network = Network("support.tiny_networks:hidden_layers", hidden_layers(), SPEC, 3).eval()
    images = training_images(tmp_path, 3)
    assert network.block_names == ("0", "4", "6")
    expected = evaluate(network, images, SPEC, torch.device("cpu")).logits
    (found,) = evaluate_together([network], network.position(cut), images, SPEC, torch.device("cpu"))
    assert torch.equal(found.logits, expected)
