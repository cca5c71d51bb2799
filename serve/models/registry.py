"""The models of a repository that are served: found, loaded beside those before them, swapped, and let go."""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

from unfreeze.contract.cores import usable_cores
from unfreeze.contract.errors import (
    ModelError,
    ModelUnavailableError,
    RepositoryError,
    ServingError,
    UnfreezeError,
    UnknownModelError,
)
from unfreeze.contract.files import fingerprint
from unfreeze.contract.model.repository import ModelRepository
from unfreeze.serve.models.loaded_model import LoadedModel
from unfreeze.serve.models.loading import load
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.scheduling.execution_plan import ExecutionPlan

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
_Print = tuple[int, int, int]
_LOADING = "load"
_NICENESS = 5  # lower, and another process could keep the thread, and with it Python's lock, from running for seconds
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VersionState:
    """What is known of one version.

    Args:
        name: the model's.
        version: its number.
        state: in Triton's words.
        reason: why it is in that state.
    """

    name: str
    version: str
    state: State
    reason: str = ""


class ModelRegistry:
    """The models that are served, each in its newest versions.

    Use it in one event loop. `open` loads what there is; `refresh`, `load` and `unload` change it, one at a time.

    Args:
        options: what to load, and how.
        changed: called whenever models have come or gone.
    """

    def __init__(self, options: ServeOptions, changed: Callable[[], None] = lambda: None) -> None:
        self._options, self._changed = options, changed
        self._repository = ModelRepository(options.repository)
        self._decoders = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")
        self._served: dict[str, dict[int, LoadedModel]] = {}
        self._prints: dict[tuple[str, int], _Print] = {}
        self._broken: dict[tuple[str, int], tuple[_Print, str]] = {}
        self._unloaded: set[str] = set()
        self._states: dict[tuple[str, int], VersionState] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._changes: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()

    def __iter__(self) -> Iterator[LoadedModel]:
        """Go through every version that can be asked."""
        return (model for versions in self._served.values() for model in versions.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The models that can be asked."""
        return tuple(self._served)

    def versions(self, name: str) -> tuple[str, ...]:
        """The versions of a model that can be asked, oldest first."""
        return tuple(self._served[name][number].version for number in sorted(self._served.get(name, ())))

    def find(self, name: str, version: str = "") -> LoadedModel:
        """Look a model up.

        Args:
            name: in the repository; may be empty where there is only one.
            version: empty for the newest that is loaded.

        Raises:
            UnknownModelError: there is no such model or version; the message lists those there are.
        """
        only = next(iter(self._served)) if len(self._served) == 1 else ""
        versions = self._served.get(name or only)
        if versions is None:
            raise UnknownModelError(f"there is no model {name!r:.200}; there are: {self._list()}")
        if not version:
            return versions[max(versions)]
        for model in versions.values():
            if model.version == version:
                return model
        loaded = ", ".join(str(number) for number in sorted(versions))
        raise UnknownModelError(f"{name or only} has version {loaded} loaded, not {version!r:.50}")

    def use(self, name: str, version: str = "") -> AbstractContextManager[LoadedModel]:
        """Look a model up and keep it loaded for as long as the body runs.

        Raises:
            UnknownModelError: see `find`.
        """
        return self.find(name, version).used()

    def are_busy(self) -> bool:
        """Tell whether images wait for every one of them."""
        return all(model.pending for model in self)

    def check_room(self, deadline: float | None) -> None:
        """Refuse a request that none of them could take, whichever it asks for.

        Args:
            deadline: on `time.monotonic`'s clock, if there is one.

        Raises:
            QueueFullError: too much is waiting for each.
            DeadlineError: each would take too long.
        """
        refused: ServingError | None = None
        for model in self:
            try:
                model.check_room(deadline)
            except ServingError as error:
                refused = error
            else:
                return
        if refused is not None:
            raise refused

    def states(self) -> tuple[VersionState, ...]:
        """Tell of every version that was ever looked at and is still there."""
        return tuple(self._states[key] for key in sorted(self._states))

    async def open(self) -> None:
        """Load what the repository holds.

        Raises:
            RepositoryError: the repository is no folder, or holds no model.
            ModelError: not one of its models can be loaded; says why of the first.
        """
        if not self._repository.models():
            raise RepositoryError(f"{self._options.repository} holds no model; publish one with `unfreeze export`")
        await self.refresh()
        if not self._served:
            raise ModelError(next(iter(self._broken.values()))[1])

    async def refresh(self) -> None:
        """Take what is new in the repository, and let go of what is gone from it.

        A version that cannot be loaded leaves those before it as they are, and is not tried again until its file
        changes.

        Raises:
            RepositoryError: the repository is gone.
        """
        await self._changing(self._refresh())

    async def _refresh(self) -> None:
        async with self._lock:
            there = await asyncio.to_thread(self._repository.models)
            for name in sorted({*there, *self._served}):
                if name not in self._unloaded:
                    await self._take(name, there.get(name, ()))
            for key in [
                key for key in self._states if key[1] not in there.get(key[0], ()) and not self._is_served(key)
            ]:
                del self._states[key]

    async def load(self, name: str) -> None:
        """Load a model that was unloaded, or look for a newer version of one.

        Raises:
            UnknownModelError: the repository has no such model.
            ModelUnavailableError: its newest version cannot be loaded.
        """
        await self._changing(self._load(name))

    async def _load(self, name: str) -> None:
        async with self._lock:
            versions = (await asyncio.to_thread(self._repository.models)).get(name, ())
            if not versions:
                raise UnknownModelError(f"the repository has no model {name!r:.200}")
            self._broken.pop((name, versions[-1]), None)
            self._unloaded.discard(name)
            await self._take(name, versions)
            broken = self._broken.get((name, versions[-1]))
        if broken is not None:
            raise ModelUnavailableError(broken[1])

    async def unload(self, name: str) -> None:
        """Stop to serve a model, until `load`; who asked it before is answered.

        Raises:
            UnknownModelError: it is not served.
        """
        async with self._lock:
            if name not in self._served:
                raise UnknownModelError(f"{name!r:.200} is not served; there are: {self._list()}")
            self._unloaded.add(name)
            self._swap(name, {}, "unloaded")

    async def close(self) -> None:
        """Finish what is waiting and let go of everything; what is being loaded is not waited for."""
        for change in self._changes:
            change.cancel()
        await asyncio.gather(*self._changes, return_exceptions=True)
        for name in self.names:
            self._swap(name, {}, "the server is going down")
        await asyncio.gather(*self._closing)
        self._decoders.shutdown()

    async def _take(self, name: str, versions: tuple[int, ...]) -> None:
        """Serve the newest versions of a model that can be loaded, and no others."""
        wanted: dict[int, LoadedModel] = {}
        try:
            for number in reversed(versions):
                if self._options.versions and len(wanted) == self._options.versions:
                    break
                model = await self._loaded(name, number)
                if model is not None:
                    wanted[number] = model
        except BaseException:
            for number, model in wanted.items():
                if self._served.get(name, {}).get(number) is not model:
                    await model.close()
            raise
        self._swap(name, wanted, "a newer version is served" if wanted else "gone from the repository")

    async def _loaded(self, name: str, number: int) -> LoadedModel | None:
        """Give a version that is served already, or load it; None where that fails."""
        key, path = (name, number), self._repository.path(name, number)
        found = fingerprint(path)
        if found is None:
            return None
        if self._is_served(key) and self._prints[key] == found:
            return self._served[name][number]
        if key in self._broken and self._broken[key][0] == found:
            return None
        self._say(key, "LOADING")
        try:
            before = next(iter(self._served.get(name, {}).values()), None)
            plan = None if before is None else before.plan
            model = await _aside(partial(load, name, number, path, self._decoders, self._options, plan), plan)
        except Exception as error:  # noqa: BLE001 - whatever it is, the version before goes on
            known = isinstance(error, UnfreezeError)
            _log.error("%s version %d cannot be served: %s", name, number, error, exc_info=None if known else error)
            reason = str(error).replace(f"{self._repository.root}{os.sep}", "")  # callers need not know where we are
            self._broken[key] = found, reason
            self._say(key, "UNAVAILABLE", reason)
            return None
        self._broken.pop(key, None)
        self._prints[key] = found
        model.start()
        return model

    async def _changing(self, change: Coroutine[None, None, None]) -> None:
        """Change what is served, to its end, also where who asked for it has given up."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # asked for by nobody, maybe
        await asyncio.shield(task)

    def _swap(self, name: str, wanted: dict[int, LoadedModel], why: str) -> None:
        """Put versions in the place of those before; these finish what they have and are closed."""
        before = self._served.get(name, {})
        if wanted:
            self._served[name] = wanted
        else:
            self._served.pop(name, None)
        for number in wanted:
            self._say((name, number), "READY")
        for number, model in before.items():
            if wanted.get(number) is not model:
                if number not in wanted:
                    self._say((name, number), "UNAVAILABLE", why)
                task = asyncio.create_task(model.close(), name=f"close {name} {number}")
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
        if before != wanted:
            self._changed()

    def _list(self) -> str:
        return ", ".join(sorted(self._served)) or "none"

    def _is_served(self, key: tuple[str, int]) -> bool:
        return key[1] in self._served.get(key[0], {})

    def _say(self, key: tuple[str, int], state: State, reason: str = "") -> None:
        self._states[key] = VersionState(name=key[0], version=str(key[1]), state=state, reason=reason)


def is_loading() -> bool:
    """Tell whether a thread of this process still loads a model, maybe one that nobody waits for any more."""
    return any(thread.name == _LOADING for thread in threading.enumerate())


async def _aside(work: Callable[[], LoadedModel], plan: ExecutionPlan | None) -> LoadedModel:
    """Load in a thread of its own; where a version answers meanwhile, in one that leaves the cores to it."""
    # Threads that the runtime starts inherit their priority, so there must be none.
    yields = plan is not None and plan.threads == 1 and sys.platform == "linux"
    loaded: Future[LoadedModel] = Future()
    loaded.set_running_or_notify_cancel()

    def run() -> None:
        try:
            if yields:
                _yield_cores()
            loaded.set_result(work())
        except BaseException as error:  # noqa: BLE001 - goes to who waits for it
            loaded.set_exception(error)

    # Nobody waits for it at the process's end, which may not come late.
    threading.Thread(target=run, name=_LOADING, daemon=True).start()
    return await asyncio.wrap_future(loaded)


def _yield_cores() -> None:
    """Give this thread, and on Linux it alone, a lower priority; it cannot be raised again."""
    with suppress(OSError):  # a sandbox may forbid even that
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
