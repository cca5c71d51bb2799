"""What an unfinished run leaves in its folder, so that it can be gone on with."""

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
_NO_MATTER = ("cache_gb", "strict", "abstain_precision")  # these change no weight
CHOICE, TRAINING = "choice.pt", "training.pt"


class Unfinished:
    """The state of a run, file by file; each is written whole or not at all.

    Args:
        run: the run's folder.
    """

    def __init__(self, run: Path) -> None:
        self.folder = run / _FOLDER

    def exists(self) -> bool:
        """Tell whether there is anything to go on with."""
        return (self.folder / _REQUEST).is_file()

    def begin(self, options: TuneOptions, contents: dict[str, str], weights: str) -> None:
        """Forget what there was, and note what the run is about.

        Args:
            options: how to tune.
            contents: of the data, as `unfreeze.tune.data.inspection` describes them.
            weights: hash of the pretrained weights.
        """
        self.clear()
        self.folder.mkdir()
        with replacing(self.folder / _REQUEST) as file:
            file.write(json.dumps(_request(options, contents, weights), indent=2).encode())

    def check(self, options: TuneOptions, contents: dict[str, str], weights: str) -> None:
        """Refuse to go on with other data, options or versions.

        Raises:
            CheckpointError: naming what differs.
        """
        try:
            before = json.loads((self.folder / _REQUEST).read_bytes())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.folder} cannot be resumed: {error}; begin anew with --overwrite") from None
        now = json.loads(json.dumps(_request(options, contents, weights)))
        differences = [difference for part in now for difference in _differences(part, before.get(part, {}), now[part])]
        if differences:
            more = f"; and {len(differences) - 5} differences more" if len(differences) > 5 else ""  # noqa: PLR2004
            raise CheckpointError(
                f"{self.folder.parent} was begun otherwise: {'; '.join(differences[:5])}{more}. Resume with what it "
                "was begun with, begin anew with --overwrite, or choose another --out"
            )

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Keep a part of the state.

        Raises:
            CheckpointError: it cannot be written; what was kept before is as it was.
        """
        try:
            with replacing(self.folder / name) as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError where the disk is full
            raise CheckpointError(
                f"the run's state cannot be written to {self.folder}: {_reason(error)}. What was written before is "
                "intact: make placement, and go on with --resume"
            ) from error

    def load(self, name: str) -> dict[str, Any] | None:
        """Read a part of the state; None where there is none yet.

        Raises:
            CheckpointError: it is damaged.
        """
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many kinds on damaged files
            raise CheckpointError(f"{path} is damaged: {_reason(error)}; begin anew with --overwrite") from error

    def clear(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _request(options: TuneOptions, contents: dict[str, str], weights: str) -> dict[str, dict[str, Any]]:
    told = {name: value for name, value in asdict(options).items() if name not in _NO_MATTER}
    return {"options": told, "data": contents, "versions": {"weights": weights, "torch": torch.__version__}}


def _differences(part: str, before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for key in sorted(before.keys() | now.keys()):
        was, found = (kept.get(key, "not there") for kept in (before, now))
        if was != found:
            name = f"--{key.replace('_', '-')}" if part == "options" else key
            yield f"{name} was {was}, is {found}"


def _reason(error: BaseException) -> str:
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error).partition("\n")[0]
