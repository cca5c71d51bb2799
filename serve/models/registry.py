"""The served models: found in the repository, loaded, replaced by newer versions and unloaded."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager

from unfreeze.contract.errors import (
    ModelError,
    ModelUnavailableError,
    RepositoryError,
    ServingError,
    UnknownModelError,
)
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.serve.models.loaded_model import LoadedModel
from unfreeze.serve.models.version_loader import VersionLoader
from unfreeze.serve.models.version_state import VersionKey, VersionState, VersionStates
from unfreeze.serve.options import ServeOptions


class ModelRegistry:
    """The served models, each in its newest versions.

    Use it in one event loop. `open` loads the repository; `refresh`, `load` and `unload` change the set of models, one
    change at a time.

    Args:
        options: what to load, and how.
        on_change: called whenever a model or a version was added or removed.
    """

    def __init__(self, options: ServeOptions, on_change: Callable[[], None] = lambda: None) -> None:
        self._options, self._on_change = options, on_change
        self._repository = ModelRepository(options.repository)
        self._states = VersionStates()
        self._loader = VersionLoader(self._repository, options, self._states)
        self._models: dict[str, dict[int, LoadedModel]] = {}
        self._unloaded: set[str] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._changes: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()

    def __iter__(self) -> Iterator[LoadedModel]:
        """Iterate over all loaded versions."""
        return (model for versions in self._models.values() for model in versions.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the loaded models."""
        return tuple(self._models)

    def versions(self, name: str) -> tuple[str, ...]:
        """Return the loaded versions of a model, oldest first."""
        return tuple(self._models[name][number].version for number in sorted(self._models.get(name, ())))

    def find(self, name: str, version: str = "") -> LoadedModel:
        """Look up a model.

        Args:
            name: name in the repository; may be empty if only one model is loaded.
            version: version number; empty for the newest loaded version.

        Raises:
            UnknownModelError: the model or the version is not loaded; the message lists those that are.
        """
        only = next(iter(self._models)) if len(self._models) == 1 else ""
        versions = self._models.get(name or only)
        if versions is None:
            raise UnknownModelError(f"unknown model {name!r:.200}; loaded models: {self._names_text()}")
        if not version:
            return versions[max(versions)]
        for model in versions.values():
            if model.version == version:
                return model
        loaded = ", ".join(str(number) for number in sorted(versions))
        raise UnknownModelError(f"unknown version {version!r:.50} of model {name or only}; loaded versions: {loaded}")

    def use(self, name: str, version: str = "") -> AbstractContextManager[LoadedModel]:
        """Look up a model and keep it loaded while the body runs.

        Raises:
            UnknownModelError: as `find`.
        """
        return self.find(name, version).in_use()

    def are_busy(self) -> bool:
        """Check whether every model has accepted images that are not classified yet."""
        return all(model.pending for model in self)

    def check_capacity(self, deadline: float | None) -> None:
        """Check that at least one model can accept a request of a single image now.

        Args:
            deadline: on the clock of `time.monotonic`; None for none.

        Raises:
            QueueFullError: all queues are full.
            DeadlineError: no model can meet the deadline.
        """
        last_error: ServingError | None = None
        for model in self:
            try:
                model.check_capacity(deadline)
            except ServingError as error:
                last_error = error
            else:
                return
        if last_error is not None:
            raise last_error

    def states(self) -> tuple[VersionState, ...]:
        """Return the state of every version in the repository, by name and version."""
        return self._states.all()

    async def open(self) -> None:
        """Load the models in the repository.

        Raises:
            RepositoryError: the repository is not a folder, or has no models.
            ModelError: none of the models can be loaded; the message is that of the first.
        """
        if not self._repository.models():
            raise RepositoryError(f"{self._options.repository} has no models; publish one with `unfreeze export`")
        await self.refresh()
        if not self._models:
            raise ModelError(self._loader.first_failure())

    async def refresh(self) -> None:
        """Load new versions from the repository and unload removed ones.

        If a version cannot be loaded, older versions stay loaded, and it is tried again only after its file changes.

        Raises:
            RepositoryError: the repository is not a folder any more.
        """
        await self._run_to_completion(self._refresh())

    async def _refresh(self) -> None:
        async with self._lock:
            found = await asyncio.to_thread(self._repository.models)
            for name in sorted({*found, *self._models}):
                if name not in self._unloaded:
                    await self._update(name, found.get(name, ()))
            self._states.forget(lambda key: key[1] not in found.get(key[0], ()) and not self._is_loaded(key))

    async def load(self, name: str) -> None:
        """Load the newest versions of a model, also after `unload`.

        Raises:
            UnknownModelError: the repository has no such model.
            ModelUnavailableError: its newest version cannot be loaded.
        """
        await self._run_to_completion(self._load(name))

    async def _load(self, name: str) -> None:
        async with self._lock:
            versions = (await asyncio.to_thread(self._repository.models)).get(name, ())
            if not versions:
                raise UnknownModelError(f"the repository has no model {name!r:.200}")
            newest = name, versions[-1]
            self._loader.forget_failure(newest)
            self._unloaded.discard(name)
            await self._update(name, versions)
            failure = self._loader.failure(newest)
        if failure is not None:
            raise ModelUnavailableError(failure)

    async def unload(self, name: str) -> None:
        """Stop serving a model until `load`; accepted requests are still answered.

        Raises:
            UnknownModelError: the model is not loaded.
        """
        async with self._lock:
            if name not in self._models:
                raise UnknownModelError(f"unknown model {name!r:.200}; loaded models: {self._names_text()}")
            self._unloaded.add(name)
            self._replace(name, {}, "unloaded")

    async def close(self) -> None:
        """Answer the accepted requests and close all models; does not wait for models that are still loading."""
        for change in self._changes:
            change.cancel()
        await asyncio.gather(*self._changes, return_exceptions=True)
        for name in self.names:
            self._replace(name, {}, "the server is shutting down")
        await asyncio.gather(*self._closing)
        self._loader.close()

    async def _update(self, name: str, versions: tuple[int, ...]) -> None:
        """Serve the newest versions of a model that can be loaded, and no others."""
        loaded, updated = self._models.get(name, {}), dict[int, LoadedModel]()
        try:
            for number in reversed(versions):
                if self._options.versions and len(updated) == self._options.versions:
                    break
                model = await self._loader.load((name, number), loaded)
                if model is not None:
                    updated[number] = model
        except BaseException:
            for number, model in updated.items():
                if loaded.get(number) is not model:
                    await model.close()
            raise
        self._replace(name, updated, "a newer version is served" if updated else "removed from the repository")

    async def _run_to_completion(self, change: Coroutine[None, None, None]) -> None:
        """Run a change to its end even if the caller is cancelled."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # the caller may be gone
        await asyncio.shield(task)

    def _replace(self, name: str, updated: dict[int, LoadedModel], reason: str) -> None:
        """Replace the loaded versions of a model; the previous ones finish their requests and are closed."""
        previous = self._models.get(name, {})
        if updated:
            self._models[name] = updated
        else:
            self._models.pop(name, None)
        for number in updated:
            self._states.set((name, number), "READY")
        for number, model in previous.items():
            if updated.get(number) is not model:
                if number not in updated:
                    self._states.set((name, number), "UNAVAILABLE", reason)
                task = asyncio.create_task(model.close(), name=f"close {name} {number}")
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
        if previous != updated:
            self._on_change()

    def _is_loaded(self, key: VersionKey) -> bool:
        return key[1] in self._models.get(key[0], {})

    def _names_text(self) -> str:
        return ", ".join(sorted(self._models)) or "none"
