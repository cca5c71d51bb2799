"""State of an unfinished run, from which `--resume` continues."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from unfreeze.contract.errors import CheckpointError
from unfreeze.contract.files import replacing
from unfreeze.tune.options import TuneOptions

_FOLDER = ".unfinished"
_REQUEST = "request.json"
# They do not change the weights; what teacher and unlabeled name is compared by its content.
_WEIGHT_NEUTRAL_OPTIONS = (
    "cache_gb",
    "store_gb",
    "strict",
    "abstain_precision",
    "ood_false_alarms",
    "teacher",
    "unlabeled",
)
_SHOWN_DIFFERENCES = 5
CHOICE, TEACHING, TRAINING = "choice.pt", "teaching.pt", "training.pt"


class ResumeState:
    """State of a run in several files, each of which is written completely or not at all.

    Args:
        run: the run's folder.
    """

    def __init__(self, run: Path) -> None:
        self.folder = run / _FOLDER

    def exists(self) -> bool:
        """Return whether there is an unfinished run."""
        return (self.folder / _REQUEST).is_file()

    def begin(self, options: TuneOptions, contents: dict[str, str], weights: str) -> None:
        """Delete an earlier state and record what the run is based on.

        Args:
            options: of the run.
            contents: of the dataset, from `unfreeze.tune.data.inspection.inspection`.
            weights: SHA-256 of the pretrained weights.
        """
        self.clear()
        self.folder.mkdir()
        with replacing(self.folder / _REQUEST) as file:
            file.write(json.dumps(_request(options, contents, weights), indent=2).encode())

    def options(self) -> dict[str, Any]:
        """Return the options that the unfinished run was started with; none if they cannot be read."""
        try:
            found: dict[str, Any] = json.loads((self.folder / _REQUEST).read_bytes())["options"]
        except (OSError, ValueError, KeyError):
            return {}
        return found

    def check(self, options: TuneOptions, contents: dict[str, str], weights: str) -> None:
        """Check that the run was started with the same data, options and versions.

        Raises:
            CheckpointError: an input differs; the message lists the differences.
        """
        try:
            before = json.loads((self.folder / _REQUEST).read_bytes())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.folder} cannot be resumed: {error}; start over with --overwrite") from None
        now = json.loads(json.dumps(_request(options, contents, weights)))
        differences = [text for part in now for text in _differences(part, before.get(part, {}), now[part])]
        if differences:
            more = len(differences) - _SHOWN_DIFFERENCES
            raise CheckpointError(
                f"{self.folder.parent} was started with other inputs: {'; '.join(differences[:_SHOWN_DIFFERENCES])}"
                f"{f'; and {more} more' if more > 0 else ''}. Resume with the original inputs, start over with "
                "--overwrite, or choose another --out"
            )

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Write a part of the state.

        Raises:
            CheckpointError: it cannot be written; the previous state is intact.
        """
        try:
            with replacing(self.folder / name) as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError when the disk is full
            raise CheckpointError(
                f"the state of the run cannot be written to {self.folder}: {_reason(error)}. The previous state is "
                "intact: free some disk space, then continue with --resume"
            ) from error

    def load(self, name: str) -> dict[str, Any] | None:
        """Read a part of the state; None if it was not written yet.

        Raises:
            CheckpointError: it is damaged.
        """
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many types on damaged files
            raise CheckpointError(f"{path} is damaged: {_reason(error)}; start over with --overwrite") from error
        return state

    def clear(self) -> None:
        """Delete the state."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _request(options: TuneOptions, contents: dict[str, str], weights: str) -> dict[str, dict[str, Any]]:
    compared = {name: value for name, value in asdict(options).items() if name not in _WEIGHT_NEUTRAL_OPTIONS}
    return {"options": compared, "data": contents, "versions": {"weights": weights, "torch": torch.__version__}}


def _differences(part: str, before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for key in sorted(before.keys() | now.keys()):
        old, new = (values.get(key, "missing") for values in (before, now))
        if old != new:
            name = f"--{key.replace('_', '-')}" if part == "options" else key
            yield f"{name} was {old}, is {new}"


def _reason(error: BaseException) -> str:
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error).partition("\n")[0]
