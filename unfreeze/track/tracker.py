"""The registered trackers."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from unfreeze.contract.errors import OptionsError, UnfreezeError, first_line

if TYPE_CHECKING:
    from unfreeze.export.run import Published
    from unfreeze.track.tracked_run import TrackedRun

TrackerName = Literal["mlflow", "wandb", "tensorboard"]
_PACKAGES: dict[TrackerName, str] = {"mlflow": "mlflow", "wandb": "wandb", "tensorboard": "tensorboardX"}


class Tracker(Protocol):
    """A module `unfreeze.track.NAME_tracker` with these functions."""

    def log_run(self, run: "TrackedRun") -> str:
        """Log a run; return where it can be seen."""

    def log_model(self, run: "TrackedRun", published: "Published") -> str:
        """Log the model that was exported from a run that was logged; return where it can be seen."""


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Check that the packages are installed, before minutes of work are spent.

    Raises:
        OptionsError: one is not.
    """
    for name in names:
        if find_spec(_PACKAGES[name]) is None:
            raise OptionsError(f"--track {name} needs {_PACKAGES[name]}: pip install 'unfreeze[{name}]'")


def track_run(names: Sequence[TrackerName], folder: Path) -> list[str]:
    """Log a finished run.

    Args:
        names: of the trackers.
        folder: of the run.

    Returns:
        Where it can be seen.

    Raises:
        UnfreezeError: a tracker does not accept it, for example because its server cannot be reached.
    """
    from unfreeze.track.tracked_run import read_tracked_run

    places = []
    for name in names:
        try:
            with _quietly():
                places.append(_tracker(name).log_run(read_tracked_run(folder)))
        except Exception as error:  # trackers raise many types
            raise UnfreezeError(
                f"{folder} is complete, but {name} did not accept it: {first_line(error)}; "
                f"unfreeze export {folder} ... --track {name} logs it again"
            ) from error
    return places


def track_model(names: Sequence[TrackerName], folder: Path, published: "Published") -> list[str]:
    """Log an exported model, and its run if that was not logged yet.

    Args:
        names: of the trackers.
        folder: of the run.
        published: the model.

    Returns:
        Where it can be seen.

    Raises:
        UnfreezeError: a tracker does not accept it.
    """
    from unfreeze.track.tracked_run import read_tracked_run

    places = []
    for name in names:
        try:
            with _quietly():
                run, tracker = read_tracked_run(folder), _tracker(name)
                if name not in run.known:
                    tracker.log_run(run)
                places.append(tracker.log_model(run, published))
        except Exception as error:  # trackers raise many types
            raise UnfreezeError(
                f"{published.path} is published, but {name} did not accept it: {first_line(error)}"
            ) from error
    return places


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep a tracker's own messages off standard output, and its warnings to itself."""
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield


def _tracker(name: TrackerName) -> Tracker:
    tracker: Tracker = import_module(f"unfreeze.track.{name}_tracker")
    return tracker
