"""Facts of a run: what is loaded besides the weights, and what is rejected."""

import json
from pathlib import Path

import pytest
from support.runs import write_run

from unfreeze.contract.errors import CheckpointError
from unfreeze.tune.artifacts.checkpoint import load_run
from unfreeze.tune.evaluation.evaluate import evaluate


def test_loads_the_link_into_the_head(tmp_path: Path) -> None:
    """Link and threshold are loaded, and an evaluation of the network has its link."""
    network, facts = load_run(write_run(tmp_path, per_class=1, link="sigmoid", abstain_below=0.25))
    assert (facts.link, facts.abstain_below, network.head.link) == ("sigmoid", 0.25, "sigmoid")
    assert evaluate(network, facts.images(), facts.preprocess, next(network.parameters()).device).link == "sigmoid"


def test_loads_a_run_of_an_earlier_version(tmp_path: Path) -> None:
    """Without link and threshold in `run.json`, the link is softmax and no answer is uncertain."""
    run = write_run(tmp_path, per_class=1)
    document = json.loads((run / "run.json").read_text())
    del document["link"], document["abstain_below"]
    (run / "run.json").write_text(json.dumps(document))
    network, facts = load_run(run)
    assert (facts.link, facts.abstain_below, network.head.link) == ("softmax", None, "softmax")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("link", "probit", r"link must be one of softmax, sigmoid, got 'probit' @ \$$"),
        ("abstain_below", 1.01, r"abstain_below must be between 0 and 1, or null, got 1\.01 @ \$$"),
        ("abstain_below", "often", r"expected a number, got a string \('often'\) @ \$\.abstain_below"),
    ],
)
def test_rejects_invalid_facts(tmp_path: Path, name: str, value: object, message: str) -> None:
    """The message names the file, what was found and what was expected."""
    run = write_run(tmp_path, per_class=1)
    document = json.loads((run / "run.json").read_text()) | {name: value}
    (run / "run.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=rf"run\.json: {message}"):
        load_run(run)
