"""`unfreeze traffic` shows and sets the traffic of a server."""

import json
from pathlib import Path

import pytest
from support.canaries import DARK, MODEL, publish_shades
from support.traffic import predict, serving

from unfreeze.command import main

pytestmark = pytest.mark.xdist_group("serve")


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command; returns its exit code and what it wrote."""
    with pytest.raises(SystemExit) as ended:
        main(["traffic", *arguments])
    written = capsys.readouterr()
    return ended.value.code or 0, written.out, written.err


def test_show_and_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not given stays; an empty value removes it; JSON has the counts."""
    with serving(publish_shades(tmp_path, ["good", "other"]), http=None) as (server, channel):
        address = f"127.0.0.1:{server.port}"
        rule = '{"max_disagreement": 0.5, "minimum_images": 1000}'
        code, out, _ = _run(capsys, address, MODEL, "--split", "1:75,2:25", "--shadow", "2:100", "--rule", rule)
        assert code == 0
        assert "75.0%" in out
        assert "25.0%" in out
        assert "kept by a restart" in out
        assert "max_disagreement 0.5" in out
        for _ in range(3):
            predict(channel, version="1", image=DARK)
        code, out, _ = _run(capsys, address, "--json")
        found = json.loads(out)
        assert (code, found["split"], found["shadow"]) == (0, {"1": 75, "2": 25}, {"2": 100})
        assert found["rule"] == {"minimum_images": 1000, "max_disagreement": 0.5, "action": "take-back"}
        assert [int(one["requests"]) for one in found["versions"]] == [3, 0]
        _, out, _ = _run(capsys, address, MODEL, "--rule", "", "--json")
        assert (json.loads(out)["split"], "rule" in json.loads(out)) == ({"1": 75, "2": 25}, False)
        _run(capsys, address, MODEL, "--split", "", "--shadow", "")
        assert predict(channel) == "2"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--split", "1"), 2, "--split must be VERSION:SHARE"),
        (("--rule", "{"), 2, "Expecting property name"),
        (("--rule", '{"max_errors": 1}'), 2, "unknown field @ $.rule.max_errors"),
        (("--split", "7:1"), 1, f"model {MODEL} has no version 7 in the repository; versions: 1"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    """Wrong usage ends with 2, and what the server refuses with 1; the message says what to do."""
    with serving(publish_shades(tmp_path, ["good"]), http=None) as (server, _):
        ended, _, err = _run(capsys, f"127.0.0.1:{server.port}", MODEL, *arguments)
    assert (ended, message in err) == (code, True), err


def test_shares_are_checked_before_a_server_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """None answers at this address."""
    for option in ("--split", "--shadow"):
        code, _, error = _run(capsys, "localhost:1", MODEL, option, "x")
        assert code == 2
        assert f"{option} must be VERSION:SHARE" in error
