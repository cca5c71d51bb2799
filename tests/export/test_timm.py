"""A small network of every module of timm exports with a dynamic batch, and computes what torch computes."""

import itertools

import numpy as np
import pytest
import torch

from bench.families import PRECISIONS, export_member
from bench.timm_members import MEMBERS, UNEXPORTED, UNTRACEABLE
from unfreeze.contract.errors import ProofError
from unfreeze.export.graph import _Plain

TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2}
# In `make test`; the others are exhaustive.
REPRESENTATIVES = (
    ("byobnet", "fp16"),
    ("mambaout", "fp32"),
    ("maxxvit", "fp32"),
    ("vision_transformer", "fp32"),
    ("vision_transformer", "fp16"),
)


@pytest.mark.parametrize(
    ("module", "precision"),
    [
        pytest.param(*one, marks=[] if one in REPRESENTATIVES else [pytest.mark.exhaustive, pytest.mark.slow])
        for one in itertools.product(MEMBERS, PRECISIONS)
        if one[0] not in UNTRACEABLE and one[0] not in UNEXPORTED
    ],
)
def test_a_network_of_timm_exports(module: str, precision: str) -> None:
    """Three images at once and one at a time give torch's probabilities, which differ between images."""
    found = export_member(MEMBERS[module], precision)
    expected = found.expected
    assert np.abs(expected[:, None] - expected[None]).max(2)[~np.eye(3, dtype=bool)].min() > 1e-3
    np.testing.assert_allclose(found.together, expected, atol=TOLERANCES[precision])
    np.testing.assert_allclose(found.alone, expected, atol=TOLERANCES[precision])


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("module", UNEXPORTED)
def test_what_is_listed_as_not_exported_still_is_not(module: str) -> None:
    """As soon as a network exports, its reason in docs/families.md is out of date."""
    with pytest.raises(ProofError):
        export_member(MEMBERS[module], "fp32")


@pytest.mark.parametrize("mask", ["none", "bool", "float"])
def test_attention_over_five_axes_is_computed_by_its_formula(mask: str) -> None:
    """The exporter gets operations that it can translate, with the results of torch's function."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 3, 5, 8, generator=generator).unbind(0)
    additive = torch.randn(5, 5, generator=generator)
    options = {"none": {}, "bool": {"attn_mask": additive > -1}, "float": {"attn_mask": additive, "scale": 0.2}}[mask]
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, **options)
    with _Plain():
        found = torch.nn.functional.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(found, expected)
