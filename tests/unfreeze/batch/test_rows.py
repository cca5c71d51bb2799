"""Rows of the result."""

import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unfreeze.batch.rows import SCHEMA, Answers, encode_block
from unfreeze.batch.sources.entry import Item
from unfreeze.contract.model.ood import OutOfDistribution

_ITEMS = [Item(path="a.jpg"), Item(path="b.jpg", key="b", error="no image"), Item(path="no\udce9.jpg", key="c")]
_PROBABILITIES = np.array([[0.2, 0.8], [0.5, 0.5]], np.float32)


def _answers(abstain_below: float | None, top_k: int = 5) -> Answers:
    return Answers(
        labels=("ant", "bee"), abstain_below=abstain_below, top_k=top_k, model="insects", version=3, sha256="ab"
    )


@pytest.mark.parametrize(("threshold", "unsure"), [(None, [None] * 3), (0.6, [False, None, True])])
def test_rows_have_answers_or_an_error(threshold: float | None, unsure: list[bool | None]) -> None:
    """Equally probable labels are in the model's order; without a threshold, nothing is sure or unsure."""
    table = _answers(threshold).table(_ITEMS, _PROBABILITIES)
    assert table.schema.equals(SCHEMA)
    columns = table.to_pydict()
    assert columns["path"] == ["a.jpg", "b.jpg", "no\\xe9.jpg"]
    assert columns["key"] == [None, "b", "c"]
    assert columns["label"] == ["bee", None, "ant"]
    assert columns["labels"] == [["bee", "ant"], None, ["ant", "bee"]]
    assert columns["score"] == [np.float32(0.8), None, 0.5]
    assert columns["scores"] == [[np.float32(0.8), np.float32(0.2)], None, [0.5, 0.5]]
    assert columns["unsure"] == unsure
    assert columns["error"] == [None, "no image", None]
    assert (columns["model"], columns["model_version"], columns["model_sha256"]) == (
        ["insects"] * 3,
        [3] * 3,
        ["ab"] * 3,
    )


def test_foreign_images_are_marked_and_unsure() -> None:
    """The score is behind the probabilities; one that is not a number is out of distribution, too."""
    ood = OutOfDistribution(
        method="energy", threshold=1.0, false_alarms=0.1, false_alarms_low=0.0, false_alarms_high=0.2, images=9
    )
    rows = np.array([[0.2, 0.8, 1.0], [0.1, 0.9, np.nan]], np.float32)
    columns = replace(_answers(0.6), ood=ood).table(_ITEMS, rows).to_pydict()
    assert columns["out_of_distribution"] == [False, None, True]
    assert columns["unsure"] == [False, None, True]
    assert columns["ood_score"][:2] == [1.0, None]
    assert columns["labels"][0] == ["bee", "ant"]
    without = _answers(0.6).table(_ITEMS, _PROBABILITIES).to_pydict()
    assert without["out_of_distribution"] == without["ood_score"] == [None] * 3


def test_the_number_of_labels_is_limited() -> None:
    """By the option, and by what the model has."""
    assert _answers(None, 1).table(_ITEMS, _PROBABILITIES)["labels"].to_pylist() == [["bee"], None, ["ant"]]


def test_the_bytes_of_a_block_do_not_depend_on_how_its_rows_came() -> None:
    """In one batch or in several, as from one machine or from several."""
    whole = _answers(0.6).table(_ITEMS, _PROBABILITIES)
    parts = [SCHEMA.empty_table(), whole.slice(0, 1), whole.slice(1, 2)]
    assert encode_block([whole]) == encode_block(parts)
    assert pq.read_table(io.BytesIO(encode_block(parts))).equals(whole)
    assert isinstance(whole, pa.Table)
