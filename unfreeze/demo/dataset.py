"""What the demo needs from a data set, and writing its images to a folder."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from unfreeze.contract.errors import DataError
from unfreeze.contract.reporting import Reporter
from unfreeze.demo.options import DemoOptions
from unfreeze.tune.options import TuneOptions

_MARKER = ".unfreeze-demo.json"


@dataclass(frozen=True, kw_only=True)
class DemoDataset:
    """A data set of the demo.

    Args:
        name: Name of the data set, and of the model in the repository.
        write: Writes the images into a folder, as `train/LABEL/...` and `val/LABEL/...`.
        tune_options: Chooses the options for tuning.
    """

    name: str
    write: Callable[[Path, DemoOptions, Reporter], None]
    tune_options: Callable[[DemoOptions], TuneOptions]


def write_folder(out: Path, description: Mapping[str, object], write: Callable[[Path], None]) -> None:
    """Write a folder of images atomically, unless it holds the same images already.

    Args:
        out: The folder. One that this function wrote before from another description is replaced.
        description: Identifies the images; stored next to them as JSON.
        write: Writes the images into the temporary folder that it receives.

    Raises:
        DataError: `out` exists and was not written by this function.
    """
    if _holds(out, description):
        return
    if out.exists() and not (out / _MARKER).is_file():
        raise DataError(
            f"{out} exists and was not written by `unfreeze demo`; choose another --out, or remove the folder"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        write(temporary)
        (temporary / _MARKER).write_text(json.dumps(description))
        temporary.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _holds(out: Path, description: Mapping[str, object]) -> bool:
    try:
        return bool(json.loads((out / _MARKER).read_text()) == description)
    except (OSError, ValueError):
        return False
