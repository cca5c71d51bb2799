"""The limit of threads: never more than the usable cores, and restored afterwards."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support.images import write_images
from threadpoolctl import threadpool_info, threadpool_limits

from unfreeze.contract.cores import usable_cores
from unfreeze.contract.reporting import Reporter
from unfreeze.tune.cost.plan import plan
from unfreeze.tune.device.threads import limited_threads
from unfreeze.tune.options import TuneOptions
from unfreeze.tune.run import fine_tune

TOO_MANY = usable_cores() + 3


class ThreadCounter:
    """A reporter that records the number of torch's threads whenever it is called."""

    def __init__(self) -> None:
        self.counts: set[int] = set()

    def info(self, text: str) -> None:  # noqa: ARG002
        """Record the number of threads."""
        self.counts.add(torch.get_num_threads())

    def track(self, what: str, total: int) -> Callable[[int], None]:
        """Record the number of threads at every step."""
        self.info(f"{what} {total}")
        return lambda steps: self.info(str(steps))


@pytest.fixture(autouse=True)
def too_many_threads() -> Iterator[None]:
    """More threads than usable cores, as in a container on a large machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(TOO_MANY)
    yield
    torch.set_num_threads(before)


def test_limits_torch_and_restores_it() -> None:
    """Torch uses one thread per usable core, and the earlier number after an error, too."""
    seen = []

    def fail() -> None:
        with limited_threads():
            seen.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [usable_cores()]
    assert torch.get_num_threads() == TOO_MANY


def test_keeps_a_lower_number_of_threads() -> None:
    """A number below the usable cores, such as one from OMP_NUM_THREADS, is not raised."""
    torch.set_num_threads(1)
    with limited_threads():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 1


def test_limits_blas() -> None:
    """No pool of threads that threadpoolctl knows is larger than the number of usable cores."""
    with threadpool_limits(TOO_MANY):
        assert max(pool["num_threads"] for pool in threadpool_info()) == TOO_MANY
        with limited_threads():
            assert max(pool["num_threads"] for pool in threadpool_info()) <= usable_cores()
        assert max(pool["num_threads"] for pool in threadpool_info()) == TOO_MANY


def _tune(folder: Path, reporter: Reporter) -> None:
    options = TuneOptions(weights="builtin", device="cpu", recipe="last-blocks", cut="features.12", epochs=1)
    fine_tune(write_images(folder / "data", 2), folder / "run", options, reporter)


class _StoppedError(Exception):
    """Ends a run early."""


class _FirstStep:
    """A reporter that ends the run at the first step of a progress."""

    def __init__(self, reporter: Reporter) -> None:
        self.info = reporter.info

    def track(self, what: str, total: int) -> Callable[[int], None]:
        """Stop as soon as a step is reported."""
        self.info(f"{what} {total}")

        def advance(steps: int) -> None:
            self.info(str(steps))
            raise _StoppedError

        return advance


def _plan(folder: Path, reporter: Reporter) -> None:  # noqa: ARG001
    options = TuneOptions(weights="builtin", device="cpu", batch_size=2)
    with pytest.raises(_StoppedError):
        plan(options, images=16, reporter=_FirstStep(reporter))


@pytest.mark.parametrize("run", [_tune, _plan])
def test_tuning_and_planning_are_limited(run: Callable[[Path, Reporter], None], tmp_path: Path) -> None:
    """`fine_tune` and `plan` use at most one thread per usable core, and restore the number."""
    counter = ThreadCounter()
    run(tmp_path, counter)
    assert counter.counts
    assert max(counter.counts) <= usable_cores()
    assert torch.get_num_threads() == TOO_MANY
