"""A run's facts: what is kept beside the weights, and what is refused."""

import json
from pathlib import Path

import pytest
from support.runs import write_run

from unfreeze.contract.errors import CheckpointError
from unfreeze.tune.artifacts.checkpoint import load_run
from unfreeze.tune.evaluation.evaluate import evaluate


def test_the_link_comes_back_into_the_head(tmp_path: Path) -> None:
    """What a run says of link and threshold is read, and whatever evaluates the network knows its link."""
    network, facts = load_run(write_run(tmp_path, per_class=1, link="sigmoid", abstain_below=0.25))
    assert (facts.link, facts.abstain_below, network.head.link) == ("sigmoid", 0.25, "sigmoid")
    assert evaluate(network, facts.images(), facts.preprocess, next(network.parameters()).device).link == "sigmoid"


def test_a_run_from_before_links_is_read(tmp_path: Path) -> None:
    """Where `run.json` says neither, logits go through a softmax and every answer is sure."""
    run = write_run(tmp_path, per_class=1)
    document = json.loads((run / "run.json").read_text())
    del document["link"], document["abstain_below"]
    (run / "run.json").write_text(json.dumps(document))
    network, facts = load_run(run)
    assert (facts.link, facts.abstain_below, network.head.link) == ("softmax", None, "softmax")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("link", "probit", r"the link is one of softmax, sigmoid, found 'probit' @ \$$"),
        ("abstain_below", 1.01, r"abstain_below goes from 0 to 1, or is null, found 1\.01 @ \$$"),
        ("abstain_below", "often", r"expected a number, found a string \('often'\) @ \$\.abstain_below"),
    ],
)
def test_facts_that_make_no_sense_are_refused(tmp_path: Path, name: str, value: object, message: str) -> None:
    """The message says which file, what was found and what is expected."""
    run = write_run(tmp_path, per_class=1)
    document = json.loads((run / "run.json").read_text()) | {name: value}
    (run / "run.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=rf"run\.json: {message}"):
        load_run(run)
