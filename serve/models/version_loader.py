"""Load versions from the repository, each file once; a version that failed is tried again when its file changes."""

import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from unfreeze.contract.cores import usable_cores
from unfreeze.contract.errors import UnfreezeError
from unfreeze.contract.files import fingerprint
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.serve.models.load_thread import run_load
from unfreeze.serve.models.loaded_model import LoadedModel
from unfreeze.serve.models.loading import load
from unfreeze.serve.models.version_state import VersionKey, VersionStates
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.runtimes.registry import find_runtime

_Fingerprint = tuple[int, int, int]
_log = logging.getLogger(__name__)


class VersionLoader:
    """Loads versions and remembers which files were loaded and which failed.

    Args:
        repository: the model repository.
        options: how to load models.
        states: updated with the state of each version.
    """

    def __init__(self, repository: ModelRepository, options: ServeOptions, states: VersionStates) -> None:
        self._repository, self._options, self._states = repository, options, states
        self._decoders = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")
        self._fingerprints: dict[VersionKey, _Fingerprint] = {}
        self._failures: dict[VersionKey, tuple[_Fingerprint, str]] = {}

    async def load(self, key: VersionKey, loaded: Mapping[int, LoadedModel]) -> LoadedModel | None:
        """Return a version, loaded if its file is new or has changed.

        Args:
            key: name and version.
            loaded: the loaded versions of the same model.

        Returns:
            The model, or None if it cannot be loaded.
        """
        name, number = key
        path = self._repository.path(name, number)
        found = fingerprint(path)
        if found is None:
            return None
        if number in loaded and self._fingerprints[key] == found:
            return loaded[number]
        if key in self._failures and self._failures[key][0] == found:
            return None
        self._states.set(key, "LOADING")
        plan = next((model.plan for model in loaded.values()), None)
        try:
            model = await run_load(
                partial(load, name, number, path, self._decoders, self._options, plan),
                # Threads that the runtime starts would keep the low priority permanently, so there must be none.
                low_priority=plan is not None and plan.threads == 1 and not find_runtime(plan.runtime).starts_threads,
            )
        except Exception as error:  # noqa: BLE001 - whatever the error, the previous version stays loaded
            self._fail(key, found, error)
            return None
        self._failures.pop(key, None)
        self._fingerprints[key] = found
        model.start()
        return model

    def failure(self, key: VersionKey) -> str | None:
        """Return why a version could not be loaded; None if it did not fail."""
        return self._failures[key][1] if key in self._failures else None

    def first_failure(self) -> str:
        """Return why the first version that failed could not be loaded."""
        return next(iter(self._failures.values()))[1]

    def forget_failure(self, key: VersionKey) -> None:
        """Try a version again although its file has not changed."""
        self._failures.pop(key, None)

    def close(self) -> None:
        """Stop the decoding threads."""
        self._decoders.shutdown()

    def _fail(self, key: VersionKey, found: _Fingerprint, error: Exception) -> None:
        unexpected = None if isinstance(error, UnfreezeError) else error
        _log.error("cannot load model %s version %d: %s", *key, error, exc_info=unexpected)
        reason = str(error).replace(f"{self._repository.root}{os.sep}", "")  # clients must not see the server's paths
        self._failures[key] = found, reason
        self._states.set(key, "UNAVAILABLE", reason)
