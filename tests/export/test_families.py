"""Every family of torchvision's classifiers exports, answers as in torch, and becomes an engine."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import numpy as np
import pytest

from bench.families import BUILDERS, PRECISIONS, Exported, export_builder
from unfreeze.tune.backbones.families import _FAMILIES, family_of

TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2}


@pytest.fixture(scope="module")
def exported() -> Iterator[dict[tuple[str, str], "Future[Exported]"]]:
    """All of them, from two processes: an export runs on one core."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        yield {
            (backbone, precision): pool.submit(export_builder, backbone, precision, engine=precision == "fp32")
            for backbone in BUILDERS
            for precision in PRECISIONS
        }
        pool.shutdown(cancel_futures=True)


def test_every_family_has_one_here() -> None:
    """No way to split a network into blocks is missing."""
    found = {id(family_of(backbone)) for backbone in BUILDERS}
    assert found == {id(family) for family in _FAMILIES.values()}


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backbone", BUILDERS)
def test_a_family_exports_with_a_dynamic_batch(
    backbone: str, precision: str, exported: dict[tuple[str, str], "Future[Exported]"]
) -> None:
    """Three images at once and one at a time give torch's answers, which differ from image to image."""
    found = exported[backbone, precision].result()
    expected = found.expected
    assert np.abs(expected[:, None] - expected[None]).max(2)[~np.eye(3, dtype=bool)].min() > 0.01
    np.testing.assert_allclose(found.together, expected, atol=TOLERANCES[precision])
    np.testing.assert_allclose(found.alone, expected, atol=TOLERANCES[precision])


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BUILDERS)
def test_a_family_becomes_an_engine(backbone: str, exported: dict[tuple[str, str], "Future[Exported]"]) -> None:
    """Of the same graph, and no smaller than its weights."""
    found = exported[backbone, "fp32"].result()
    assert not found.refusal
    assert found.engine_mb > 0.9 * found.model_mb
