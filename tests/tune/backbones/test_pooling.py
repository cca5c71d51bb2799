"""The pooling of vision transformers: the class token and the mean of the patches' tokens, or the model's own."""

from pathlib import Path

import pytest
import torch
from support.images import write_images
from support.tuning import BFLOAT16, FLOAT32, class_mean_options, extracted_at, small_network, training_images

from unfreeze.contract.errors import WeightsError
from unfreeze.tune.artifacts.checkpoint import load_run
from unfreeze.tune.backbones.network import Network, pool
from unfreeze.tune.backbones.source import Border
from unfreeze.tune.backbones.weights import load_pretrained
from unfreeze.tune.run import fine_tune

pytestmark = pytest.mark.xdist_group("pooling")


def _network(backbone: str, pooling: str) -> Network:
    torch.manual_seed(0)
    return load_pretrained(backbone, "none", 32).network(backbone, 3, torch.device("cpu"), pooling)


def test_tokens_are_pooled_to_the_class_token_and_the_mean_of_the_patches() -> None:
    """Registers between the class token and the patches are left out; the result is float32."""
    tokens = torch.tensor([[[1.0, 2.0], [50.0, 60.0], [3.0, 4.0], [5.0, 8.0]]], dtype=torch.bfloat16)
    assert pool(tokens, 2).tolist() == [[1.0, 2.0, 4.0, 6.0]]
    assert pool(tokens, 1).tolist() == [[1.0, 2.0, pytest.approx(58 / 3), 24.0]]
    assert pool(tokens).tolist() == [[14.75, 18.5]]
    assert pool(tokens, 2).dtype == torch.float32


@pytest.mark.parametrize(
    ("backbone", "tokens", "prefix", "features"),
    [("timm/test_vit", 5, 1, 64), ("vit_b_16", 5, 1, 768)],
)
def test_the_class_token_is_what_the_stock_pooling_takes(
    backbone: str, tokens: int, prefix: int, features: int
) -> None:
    """The first half of the features are the stock ones; the last block ends with all tokens."""
    pooled = []
    for pooling in ("stock", "class-mean"):
        network = _network(backbone, pooling)
        pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            activations = network.run_blocks(pixels, 0, len(network.block_names))
        pooled.append(network.head.pool(activations))
    last = network._blocks[-1].output
    assert last == Border(shape=(tokens, features), spatial_axes=(1,), prefix_tokens=prefix)
    assert torch.equal(pooled[1][:, :features], pooled[0])
    torch.testing.assert_close(pooled[1][:, features:], activations[:, prefix:].mean(1))


def test_the_survey_and_the_probe_see_the_same_features(tmp_path: Path) -> None:
    """Behind the last block, the features of the survey are those of the head."""
    network = _network("timm/test_vit", "class-mean").eval()
    images = training_images(tmp_path, 2)
    extracted = extracted_at(network, len(network.block_names), images, tmp_path, views=1, survey=True)
    assert torch.equal(extracted.borders[len(network.block_names)], extracted.features)
    assert extracted.features.shape == (6, 1, 128)


@pytest.mark.parametrize("backbone", ["squeezenet1_1", "swin_t", "timm/test_vit2", "timm/test_vit3"])
def test_backbones_without_a_class_token_to_pool_are_refused(backbone: str) -> None:
    """Networks of maps have none, nor have test_vit2, which averages patches, and test_vit3, an attention pool."""
    with pytest.raises(WeightsError, match=f"{backbone} does not: use --pooling stock"):
        _network(backbone, "class-mean")


def test_a_run_is_loaded_with_its_pooling(tmp_path: Path) -> None:
    """`run.json` has the pooling; the loaded network has the accuracy that the run reports."""
    data = write_images(tmp_path / "data", 6)
    options = class_mean_options(recipe="last-blocks", cut="blocks.5", learning_rate=1e-3)
    metrics = fine_tune(data, tmp_path / "run", options)
    network, facts = load_run(tmp_path / "run")
    assert facts.pooling == "class-mean"
    assert network.head.linear.in_features == 128
    assert metrics["trained_parameters"] == sum(
        parameter.numel() for parameter in (*network.block_parameters(6), *network.head.parameters())
    )


@pytest.mark.parametrize("backbone", ["timm/test_vit", "vit_b_16"])
def test_frozen_transformers_in_bfloat16_have_the_features_of_float32(backbone: str, tmp_path: Path) -> None:
    """Attention and norms in bfloat16 change the features by a hundredth of their spread."""
    network = small_network(backbone) if backbone == "vit_b_16" else _network(backbone, "stock").eval()
    images = training_images(tmp_path, 3)
    found = [
        extracted_at(network, len(network.block_names), images, tmp_path, views=1, precision=precision).features
        for precision in (FLOAT32, BFLOAT16)
    ]
    assert found[1].dtype == torch.float32
    difference = (found[1] - found[0]).square().mean().sqrt()
    assert 0 < difference < 0.02 * found[0].square().mean().sqrt()


def test_tokens_keep_their_layout_on_the_way_to_the_device() -> None:
    """Feature maps become channels-last, tokens stay as they are."""
    tokens, maps = torch.randn(2, 5, 8), torch.randn(2, 8, 3, 3)
    assert BFLOAT16.to_device(tokens).stride() == (40, 8, 1)
    assert BFLOAT16.to_device(maps).is_contiguous(memory_format=torch.channels_last)
