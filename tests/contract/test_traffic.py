"""Traffic settings: what is accepted, what is refused with which message, and what a decision makes of them."""

import pytest

from unfreeze.contract.errors import ManifestError, OptionsError
from unfreeze.contract.traffic import (
    Decision,
    Rule,
    TrafficSettings,
    parse_shares,
    traffic_from,
    traffic_from_json,
    traffic_of_options,
)


def _decision(action: str, version: str) -> Decision:
    return Decision(action=action, version=version, reason="tested", time="2026-11-28T00:00:00+00:00")


def test_a_file_that_was_written_is_read_back() -> None:
    """Shares, rule and decision survive the way to JSON and back."""
    rule = Rule(max_error_rate=0.01, max_p99_ratio=1.5, action="both")
    settings = TrafficSettings(
        split={"3": 95.0, "4": 5.0}, shadow={"4": 10.0}, rule=rule, decision=_decision("taken back", "4")
    )
    assert traffic_from_json(settings.to_json().encode()) == settings


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"split": {"0": 1}}, "'0' is not a version number"),
        ({"split": {"3": -1}}, "the share of version 3 must be from 0 to 1,000,000, got -1"),
        ({"split": {"3": 0}}, "needs a version with a share above 0"),
        ({"split": {"3": "many"}}, r"expected a number, got a string .* @ \$.split.3"),
        ({"splits": {}}, r"unknown field @ \$.splits"),
        ({"shadow": {"4": 101}}, "the share of version 4 must be from 0 to 100, got 101"),
        ({"shadow": {"4": 1, "5": 1}}, "at most one shadow, got versions 4, 5"),
        ({"split": {"3": 1, "4": 1}, "shadow": {"3": 1}}, "version 3 cannot be the shadow"),
        ({"rule": {"max_error_rate": 2}}, r"max_error_rate must be between 0 and 1, got 2 @ \$.rule"),
        ({"rule": {"max_p99_ratio": 0.5}}, "max_p99_ratio must be at least 1"),
        ({"rule": {"minimum_images": 0}}, "minimum_images must be at least 1"),
        ({"rule": {"action": "delete"}}, "expected one of 'promote', 'take-back', 'both'"),
        ({"split": {"3": 9, "4": 1}, "rule": {"max_disagreement": 0.1}}, "version 4 is none: add it to the shadow"),
        ([], "expected an object, got a list"),
    ],
)
def test_an_invalid_document_is_refused(document: object, message: str) -> None:
    """The message says what was found and what was expected."""
    with pytest.raises(ManifestError, match=message):
        traffic_from(document)


@pytest.mark.parametrize("text", ["3", "3:x", "x:3", "3:1,3:2", "3:nan", "0:1"])
def test_shares_of_another_form_are_refused(text: str) -> None:
    """An example is part of the message."""
    with pytest.raises(OptionsError, match=r"--split must be VERSION:SHARE,.* such as 3:95,4:5"):
        parse_shares(text, "--split")


def test_options_of_several_models() -> None:
    """A model may have a split, a shadow or both, each once."""
    found = traffic_of_options(("a=1:9,2:1", "b=3:1"), ("a=2:10",))
    assert found == {
        "a": TrafficSettings(split={"1": 9.0, "2": 1.0}, shadow={"2": 10.0}),
        "b": TrafficSettings(split={"3": 1.0}),
    }
    with pytest.raises(OptionsError, match="each model once"):
        traffic_of_options(("a=1:1", "a=2:1"), ())
    with pytest.raises(OptionsError, match="--split or --shadow of a: version 1 cannot be the shadow"):
        traffic_of_options(("a=1:1",), ("a=1:10",))


def test_stable_and_canaries() -> None:
    """The oldest version with a share is the stable one; newer ones and the shadow are on trial."""
    settings = TrafficSettings(split={"3": 20.0, "4": 80.0, "2": 0.0}, shadow={"5": 1.0})
    assert (settings.stable, settings.canaries, settings.versions) == ("3", ("4", "5"), (2, 3, 4, 5))


def test_decisions_move_all_requests() -> None:
    """A promoted version gets all, one that is taken back none, and neither is a shadow any more."""
    settings = TrafficSettings(split={"3": 95.0, "4": 5.0}, shadow={"4": 10.0})
    promoted, back = _decision("promoted", "4"), _decision("taken back", "4")
    after = settings.promoted(promoted)
    assert (after.split, after.shadow, after.stable) == ({"3": 0.0, "4": 100.0}, {}, "4")
    after = settings.taken_back(back, "3")
    assert (after.split, after.shadow, after.stable) == ({"3": 95.0, "4": 0.0}, {}, "3")


def test_a_shadow_that_is_taken_back_does_not_become_the_newest() -> None:
    """Without a split, the newest version answers, so the stable one is pinned."""
    after = TrafficSettings(shadow={"4": 10.0}).taken_back(_decision("taken back", "4"), "3")
    assert after.split == {"3": 100.0}
