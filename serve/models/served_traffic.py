"""The traffic of the served models: read from options and files, set by requests, decided by rules."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from unfreeze.contract.errors import ManifestError, ModelUnavailableError, ServingError, UnknownModelError
from unfreeze.contract.traffic import TrafficSettings, traffic_of_options
from unfreeze.serve.models.loaded_model import LoadedModel
from unfreeze.serve.models.served import LoadedVersions
from unfreeze.serve.models.version_loader import VersionLoader
from unfreeze.serve.options import ServeOptions
from unfreeze.serve.traffic.control import TrafficControl
from unfreeze.serve.traffic.files import TrafficFiles
from unfreeze.serve.traffic.shadow import Shadows

_RULES_S = 2.0
_log = logging.getLogger(__name__)


class ServedTraffic:
    """Keeps the routes of the loaded versions up to date. Hold the registry's lock around `read` and `set`.

    Args:
        root: folder of the repository.
        options: what to serve where a model has no file.
        loaded: the loaded versions, and their routes.
        loader: loads versions.
        update: loads and unloads versions of a model, of those that the repository has.

    Attributes:
        control: what is in force, and what is known since then.
        shadows: classifies copies of requests.
    """

    def __init__(
        self,
        root: Path,
        options: ServeOptions,
        loaded: LoadedVersions[LoadedModel],
        loader: VersionLoader,
        update: Callable[[str, tuple[int, ...]], Awaitable[None]],
    ) -> None:
        self._loaded, self._loader, self._update = loaded, loader, update
        self._files, self._defaults = TrafficFiles(root), traffic_of_options(options.split, options.shadow)
        self._kept: dict[str, tuple[int, ...]] = {}  # versions that stay loaded until they are in force
        self._rules: asyncio.Task[None] | None = None
        self.shadows = Shadows(lambda: sum(model.pending for model in loaded))
        self.control = TrafficControl(lambda name: loaded.by_name.get(name, {}), self.shadows.counts)

    def named(self, name: str) -> frozenset[int]:
        """Return the versions of a model that stay loaded however old they are."""
        return frozenset((*self.control.settings(name).versions, *self._kept.get(name, ())))

    def is_shadow(self, name: str, version: int) -> bool:
        """Return whether a version is a shadow, so that an older one answers."""
        return str(version) in self.control.settings(name).shadow

    def update_route(self, name: str) -> None:
        """Divide the requests of a model among the versions that are loaded now."""
        route = self.control.route(name)
        if route is None:
            self._loaded.routes.pop(name, None)
        else:
            self._loaded.routes[name] = route

    async def read(self, found: dict[str, tuple[int, ...]], names: Iterable[str]) -> bool:
        """Put files in force that have changed, and what the options say where there are none.

        Args:
            found: versions in the repository, by model.
            names: of the models to look at.

        Returns:
            Whether anything was put in force.
        """
        changed = await asyncio.to_thread(lambda: [name for name in names if self._is_due(name)])
        accepted = [await self._read(name, found.get(name, ())) for name in changed]
        return any(accepted)

    def _is_due(self, name: str) -> bool:
        return self._files.has_changed(name) or (name not in self._loaded.by_name and name in self._defaults)

    async def _read(self, name: str, versions: tuple[int, ...]) -> bool:
        is_running = name in self._loaded.by_name
        try:
            read = await asyncio.to_thread(self._files.read, name)
            settings = self._defaults.get(name) if read is None else read
            if settings is not None and is_running:
                await self._load_named(name, versions, settings)
        except (ManifestError, ServingError) as error:
            await asyncio.to_thread(self._files.reject, name, str(error))
            if not is_running and name in self._defaults:
                self.control.set(name, self._defaults[name], stored=False)
            return False
        self._files.accept(name)
        # At the start, versions that are not there or cannot be loaded do not keep the others from being served.
        await self._put(name, versions if is_running else None, settings, stored=read is not None)
        return True

    async def set(self, name: str, versions: tuple[int, ...], settings: TrafficSettings) -> None:
        """Put the traffic of a model in force, and write that to its file where that is possible.

        Args:
            name: of the model.
            versions: in the repository.
            settings: the traffic.

        Raises:
            UnknownModelError: the repository has no such version.
            ModelUnavailableError: a version cannot be loaded. What was before stays.
        """
        for number in settings.versions:
            self._loader.forget_failure((name, number))
        await self._load_named(name, versions, settings)
        stored = await asyncio.to_thread(self._files.write, name, settings)
        await self._put(name, versions, settings, stored=stored)

    async def _load_named(self, name: str, versions: tuple[int, ...], settings: TrafficSettings) -> None:
        for number in settings.versions:
            if number not in versions:
                found = ", ".join(map(str, versions))
                raise UnknownModelError(f"model {name} has no version {number} in the repository; versions: {found}")
        self._kept[name] = settings.versions
        try:
            await self._update(name, versions)
        finally:
            del self._kept[name]
        for number in settings.versions:
            if number not in self._loaded.by_name.get(name, {}):
                raise ModelUnavailableError(self._loader.failure((name, number)) or f"version {number} is not loaded")

    async def _put(
        self, name: str, versions: tuple[int, ...] | None, settings: TrafficSettings | None, *, stored: bool
    ) -> None:
        """Put the traffic in force, and unload versions that are no longer named."""
        self.control.set(name, settings, stored=stored)
        if versions is not None:
            self.update_route(name)
            await self._update(name, versions)

    def start_rules(self, set_traffic: Callable[[str, TrafficSettings], Awaitable[None]]) -> None:
        """Begin to follow rules, if there are any and that has not begun.

        Args:
            set_traffic: puts a decision in force.
        """
        if self.control.has_rules and (self._rules is None or self._rules.done()):
            self._rules = asyncio.create_task(self._follow_rules(set_traffic), name="traffic rules")

    async def _follow_rules(self, set_traffic: Callable[[str, TrafficSettings], Awaitable[None]]) -> None:
        """Promote versions, and take them back, until there are no rules."""
        while self.control.has_rules:
            await asyncio.sleep(_RULES_S)
            for name in self.control.names:
                settings = self.control.decide(name)
                if settings is None or settings.decision is None:
                    continue
                about = name, settings.decision.version, settings.decision.action
                try:
                    await set_traffic(name, settings)
                except Exception:  # noqa: BLE001 - tried again
                    _log.exception("model %s version %s cannot be %s", *about)
                else:
                    self.control.decisions[about] += 1
                    _log.warning("model %s version %s was %s: %s", *about, settings.decision.reason)

    async def close(self) -> None:
        """Drop copies of requests, and stop following rules."""
        if self._rules is not None:
            self._rules.cancel()
            await asyncio.gather(self._rules, return_exceptions=True)
        await self.shadows.close()
