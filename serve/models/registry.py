"""The served models: found in the repository, loaded, replaced by newer versions and unloaded."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager

from unfreeze.contract.errors import (
    ModelError,
    ModelUnavailableError,
    RepositoryError,
    UnknownModelError,
)
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.serve.models.loaded_model import LoadedModel
from unfreeze.serve.models.served import LoadedVersions
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
        self._loaded = LoadedVersions[LoadedModel]()
        self._unloaded: set[str] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._changes: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()

    def __iter__(self) -> Iterator[LoadedModel]:
        """Iterate over all loaded versions."""
        return iter(self._loaded)

    @property
    def available(self) -> bool:
        """Whether models are executed: always, in this process."""
        return True

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the loaded models."""
        return tuple(self._loaded.by_name)

    def versions(self, name: str) -> tuple[str, ...]:
        """Return the loaded versions of a model, oldest first."""
        return self._loaded.versions(name)

    def find(self, name: str, version: str = "") -> LoadedModel:
        """Look up a model, as `LoadedVersions.find` does."""
        return self._loaded.find(name, version)

    def use(self, name: str, version: str = "") -> AbstractContextManager[LoadedModel]:
        """Look up a model and keep it loaded while the body runs.

        Raises:
            UnknownModelError: as `find`.
        """
        return self.find(name, version).in_use()

    def are_busy(self) -> bool:
        """Check whether every model has accepted images that are not classified yet."""
        return self._loaded.are_busy()

    def check_capacity(self, deadline: float | None) -> None:
        """Check that at least one model can accept a request now, as `LoadedVersions.check_capacity` does."""
        self._loaded.check_capacity(deadline)

    async def synchronize(self) -> None:
        """Do nothing: states and statistics of this process are up to date."""

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
        if not self._loaded.by_name:
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
            for name in sorted({*found, *self._loaded.by_name}):
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
            if name not in self._loaded.by_name:
                raise UnknownModelError(f"unknown model {name!r:.200}; loaded models: {self._loaded.names_text()}")
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
        loaded, updated = self._loaded.by_name.get(name, {}), dict[int, LoadedModel]()
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
        previous = self._loaded.by_name.get(name, {})
        if updated:
            self._loaded.by_name[name] = updated
        else:
            self._loaded.by_name.pop(name, None)
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
        return key[1] in self._loaded.by_name.get(key[0], {})
