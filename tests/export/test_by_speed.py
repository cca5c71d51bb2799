"""Which layers of an int8 graph stay in float because that is faster."""

from pathlib import Path

import numpy as np
import pytest
from support.tiny_networks import colorful, separable

from unfreeze.contract.images.preprocess import PreprocessSpec
from unfreeze.contract.reporting import Silent
from unfreeze.export.by_speed import faster_in_float, fastest
from unfreeze.export.graph import CalibratedNetwork, onnx_from_network
from unfreeze.export.quantize import Quantizer
from unfreeze.export.speed import Speed
from unfreeze.tune.backbones.network import Network

SPEC = PreprocessSpec(resize=(32,), crop=(32, 32))
PIXELS = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


def _quantizer(build: object, name: str, folder: Path) -> Quantizer:
    network = Network(f"support.tiny_networks:{name}", build(), SPEC, 3).eval()  # type: ignore[operator]
    return Quantizer(onnx_from_network(CalibratedNetwork(network, 1.0, "softmax"), SPEC.shape), PIXELS, "cpu", folder)


def test_depthwise_convolutions_are_grouped_by_size(tmp_path: Path) -> None:
    """Others, also of one filter size, are in no group."""
    quantizer = _quantizer(separable, "separable", tmp_path)
    assert {size: len(names) for size, names in quantizer.depthwise.items()} == {"3x3": 2, "5x5": 1}
    assert set().union(*quantizer.depthwise.values()) < set(quantizer.layers)


def test_one_group_or_none_stays_in_float(tmp_path: Path) -> None:
    """Whichever this machine is faster with."""
    quantizer = _quantizer(separable, "separable", tmp_path)
    assert faster_in_float(quantizer, SPEC.shape, (1,), Silent()) in ((), *quantizer.depthwise.values())


def test_without_depthwise_convolutions_nothing_is_timed(tmp_path: Path) -> None:
    """A shape that no graph takes would fail."""
    assert faster_in_float(_quantizer(colorful, "colorful", tmp_path), (1, 1, 1), (1,), Silent()) == ()


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"3x3": (1.2, 1.1), "5x5": (1.1, 1.1)}, "3x3"),
        ({"3x3": (1.5, 1.0), "5x5": (1.05, 1.05)}, "5x5"),
        ({"3x3": (1.02, 1.3), "5x5": (0.9, 0.9)}, "all"),
    ],
)
def test_the_fastest_is_faster_at_every_batch_size(times: dict[str, tuple[float, ...]], expected: str) -> None:
    """By more than what may be noise; of several, the one with the largest product."""
    speeds = {
        name: [Speed(batch=1, p50_ms=1.0, images_per_second=1.0, times_fp32=one) for one in own]
        for name, own in ({"all": (1.0, 1.0)} | times).items()
    }
    assert fastest(speeds) == expected
