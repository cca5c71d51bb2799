"""Options of training with Ray, and the progress that a worker sends; without a cluster."""

from pathlib import Path
from typing import Any

import pytest
from support.cli import run_cli

from unfreeze.contract.errors import UnfreezeError
from unfreeze.ray_train import options
from unfreeze.ray_train.progress import Relay, RelayReporter, Replay


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--ray-workers", "2"], 1, "distributed training needs explicit options: --recipe, --learning-rate"),
        (["--ray-address", "auto"], 2, "--ray-address also needs --ray-workers"),
        (["--ray-workers", "-1"], 2, "--ray-workers must be between 0 and 10,000, got -1"),
        (["--ray-workers", "2", "--ray-cpus", "0"], 2, "--ray-cpus must be between 0.01 and 1,024"),
        (["--ray-workers", "2", "--ray-address", "ray://head:10001"], 2, "ray job submit -- unfreeze tune"),
    ],
)
def test_wrong_options_are_reported_before_ray_starts(
    arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    """Each is one line that says what to do."""
    done = run_cli("tune", "images", "--out", "run", *arguments, cwd=tmp_path)
    assert done.returncode == code
    assert message in " ".join(done.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_without_ray_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray is an extra."""
    monkeypatch.setattr(options, "find_spec", lambda _: None)
    done = run_cli("tune", "images", "--out", "run", "--ray-workers", "2", cwd=tmp_path)
    assert (done.returncode, done.stderr.strip()) == (2, "error: --ray-workers needs Ray: pip install 'unfreeze[ray]'")


class _Local:
    """Calls the methods of an object as Ray calls those of an actor."""

    def __init__(self, actor: object) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        class _Method:
            remote = staticmethod(getattr(self._actor, name))

        return _Method


class _Shown:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done: dict[str, int] = {}

    def info(self, text: str) -> None:
        self.lines.append(text)

    def track(self, what: str, total: int) -> Any:
        self.lines.append(f"{what} ({total})")

        def advance(steps: int) -> None:
            self.done[what] = self.done.get(what, 0) + steps

        return advance


def test_progress_arrives_in_order_and_complete() -> None:
    """Messages and tasks keep their order; steps are merged on the way, and none is lost."""
    relay, shown = Relay(), _Shown()
    reporter, replay = RelayReporter(_Local(relay)), Replay(shown)
    reporter.info("first")
    advance, other = reporter.track("images", 500), reporter.track("epochs", 2)
    for _ in range(500):
        advance(1)
    other(2)
    events = relay.take()
    replay.show(events)
    reporter.flush()
    replay.show(relay.take())
    assert shown.lines == ["first", "images (500)", "epochs (2)"]
    assert shown.done == {"images": 500, "epochs": 2}
    assert len(events) < 100
    assert relay.take() == []


def test_errors_are_kept_in_the_order_of_their_arrival() -> None:
    """The first is the cause."""
    relay = Relay()
    first, second = UnfreezeError("first"), UnfreezeError("second")
    relay.fail(first)
    relay.fail(second)
    assert relay.errors() == [first, second]
