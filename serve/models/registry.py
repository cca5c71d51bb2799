"""The served models: found in the repository, loaded, replaced by newer versions and unloaded."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.errors import (
    ModelError,
    ModelUnavailableError,
    RepositoryError,
    UnknownModelError,
)
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.contract.traffic import TrafficSettings
from unfreeze.serve.models.loaded_model import LoadedModel
from unfreeze.serve.models.sampled_model import SampledModel
from unfreeze.serve.models.served import LoadedVersions, ServedModel
from unfreeze.serve.models.served_traffic import ServedTraffic
from unfreeze.serve.models.version_loader import VersionLoader
from unfreeze.serve.models.version_state import VersionKey, VersionState, VersionStates
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.scheduling.request import EncodedImage
from unfreeze.serve.traffic.routing import Route


class ModelRegistry:
    """The served models, each in its newest versions.

    Use it in one event loop. `open` loads the repository; `refresh`, `load` and `unload` change the set of models, one
    change at a time.

    Args:
        options: what to load, and how.
        on_change: called whenever a model or a version was added or removed, or the traffic of a model was set.

    Attributes:
        served_traffic: how the requests of each model are divided.
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
        self.served_traffic = ServedTraffic(self._repository.root, options, self._loaded, self._loader, self._update)

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

    def use(self, name: str, version: str = "", key: str = "") -> AbstractContextManager[ServedModel]:
        """Look up the model for a request, as `ServedModels.use` has it.

        Raises:
            UnknownModelError: as `find`.
        """
        if version or not self._loaded.routes:
            return self.find(name, version).in_use()
        model, shadow = self._loaded.choose(name, key)
        return model.in_use() if shadow is None else SampledModel(model, partial(self._copied, model, shadow)).in_use()

    async def _copied(
        self,
        model: LoadedModel,
        shadow: LoadedModel,
        images: Sequence[EncodedImage] | UInt8[np.ndarray, "n h w 3"],
        deadline: float | None,
        priority: int,
    ) -> Float32[np.ndarray, "n c"]:
        answers = await model.classify(images, deadline, priority)
        self.served_traffic.shadows.offer(model, shadow, images, answers)
        return answers

    def route(self, name: str) -> Route | None:
        """Return how the requests of a model are divided; None if its newest version gets all."""
        return self._loaded.routes.get(name)

    async def traffic(self, name: str) -> dict[str, Any]:
        """Describe the traffic of a model.

        Raises:
            UnknownModelError: the model is not loaded.
        """
        return self.served_traffic.control.report(self._loaded.resolve(name))

    async def set_traffic(self, name: str, settings: TrafficSettings) -> None:
        """Divide the requests of a model among its versions, and write that to its file where that is possible.

        Raises:
            UnknownModelError: the model is not loaded, or the repository has no such version of it.
            ModelUnavailableError: a version cannot be loaded. What was before stays.
        """
        await self._run_to_completion(self._set_traffic(name, settings))

    async def _set_traffic(self, name: str, settings: TrafficSettings) -> None:
        async with self._lock:
            name = self._loaded.resolve(name)
            versions = (await asyncio.to_thread(self._repository.models)).get(name, ())
            await self.served_traffic.set(name, versions, settings)
        self._take_traffic()

    def _take_traffic(self) -> None:
        self.served_traffic.start_rules(self.set_traffic)
        self._on_change()

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
            names = [name for name in sorted({*found, *self._loaded.by_name}) if name not in self._unloaded]
            has_new_traffic = await self.served_traffic.read(found, names)
            for name in names:
                await self._update(name, found.get(name, ()))
            self._states.forget(lambda key: key[1] not in found.get(key[0], ()) and not self._is_loaded(key))
        if has_new_traffic:
            self._take_traffic()

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
        await self.served_traffic.close()
        for change in self._changes:
            change.cancel()
        await asyncio.gather(*self._changes, return_exceptions=True)
        for name in self.names:
            self._replace(name, {}, "the server is shutting down")
        await asyncio.gather(*self._closing)
        self._loader.close()

    async def _update(self, name: str, versions: tuple[int, ...]) -> None:
        """Serve the newest versions of a model that can be loaded, those that share its requests, and no others."""
        loaded, updated = self._loaded.by_name.get(name, {}), dict[int, LoadedModel]()
        traffic, newest = self.served_traffic, 0
        named = traffic.named(name)
        try:
            for number in reversed(versions):
                is_enough = bool(self._options.versions) and newest == self._options.versions
                if is_enough and number not in named:
                    continue
                model = await self._loader.load((name, number), loaded)
                if model is not None:
                    updated[number] = model
                    newest += not traffic.is_shadow(name, number)
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
        self.served_traffic.update_route(name)
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
