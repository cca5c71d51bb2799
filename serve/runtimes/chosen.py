"""The choices of `auto`, kept in the user's cache folder, so that a restart does not measure again."""

import hashlib
import json
import logging
import os
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from unfreeze.contract.cache_folder import cache_folder
from unfreeze.contract.cores import usable_cores
from unfreeze.contract.errors import ManifestError
from unfreeze.contract.model.schema import decode, loads
from unfreeze.contract.processor import processor_digest, processor_name
from unfreeze.contract.versions import installed_versions
from unfreeze.serve.runtimes.base import RuntimeOptions
from unfreeze.serve.runtimes.registry import RuntimeName

_FOLDER = "runtimes"
_MAX_BYTES = 2**16
_PACKAGES = ("unfreeze", "onnxruntime", "openvino")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a choice depends on.

    Args:
        model: SHA-256 of the model file, as in its manifest.
        runtimes: names of the runtimes that were compared.
        batch: images in the larger of the measured batches.
        threads: CPU threads of a batch.
        instances: batches executed at the same time.
        cpu: the processor's name and a digest of what distinguishes it.
        versions: of the packages, by name.
    """

    model: str
    runtimes: tuple[RuntimeName, ...]
    batch: int
    threads: int
    instances: int
    cpu: str
    versions: dict[str, str]

    @classmethod
    def here(cls, model: str, runtimes: tuple[RuntimeName, ...], batch: int, options: RuntimeOptions) -> Self:
        """Describe this machine.

        Args:
            model: SHA-256 of the model file.
            runtimes: names of the runtimes that are compared.
            batch: images in the larger of the measured batches.
            options: threads and instances.
        """
        return cls(
            model=model,
            runtimes=runtimes,
            batch=batch,
            threads=options.threads or usable_cores(),
            instances=options.instances,
            cpu=f"{processor_name()} {processor_digest()[:16]}",
            versions=installed_versions(*_PACKAGES),
        )

    @property
    def path(self) -> Path:
        """The file for the choice under these conditions."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return choices_folder() / f"{digest}.json"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A runtime that was chosen.

    Args:
        runtime: its name.
        images_per_second: of each runtime that was measured.
        refused: why others were not measured.
        conditions: under which it was chosen.
    """

    runtime: RuntimeName
    images_per_second: dict[str, float]
    refused: dict[str, str]
    conditions: Conditions

    def __str__(self) -> str:
        speeds = ", ".join(f"{name} {speed:,.1f} images/s" for name, speed in self.images_per_second.items())
        refused = (f"{name} is refused: {reason}" for name, reason in self.refused.items())
        return "; ".join([speeds or "nothing else is possible", *refused])


def choices_folder() -> Path:
    """Return the folder of the choices."""
    return cache_folder() / _FOLDER


def read_choice(conditions: Conditions) -> Choice | None:
    """Read the choice that was made under these conditions; None if there is none, or its file is damaged."""
    try:
        choice = decode(Choice, loads(conditions.path.read_bytes(), max_bytes=_MAX_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ImportError, ManifestError) as error:
        _log.warning("an earlier choice of a runtime cannot be used: %s", error)
        return None
    if choice.conditions != conditions or choice.runtime not in conditions.runtimes:
        return None
    with suppress(OSError):
        os.utime(conditions.path)  # `unfreeze cache --clear --older-than` deletes what is not used
    return choice


def write_choice(choice: Choice) -> None:
    """Keep a choice; where that is not possible, the next start measures again."""
    try:
        path = choice.conditions.path
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")  # several processes may choose at once
        temporary.write_text(json.dumps(asdict(choice), indent=2), encoding="utf-8")
        temporary.replace(path)
    except (OSError, ImportError) as error:  # a folder that is not writable, or no platformdirs
        _log.warning("the choice of a runtime cannot be kept: %s", error)
