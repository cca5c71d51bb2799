"""What services need of models, whether this process executes them or another one."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, Self, TypeVar, runtime_checkable

import numpy as np

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.contract.drift.window import WindowDrift
from unfreeze.contract.errors import ServingError, UnknownModelError
from unfreeze.contract.model.manifest import Manifest
from unfreeze.contract.traffic import TrafficSettings
from unfreeze.serve.models.version_state import VersionState
from unfreeze.serve.scheduling.request import DEFAULT_PRIORITY, EncodedImage
from unfreeze.serve.scheduling.statistics import Statistics
from unfreeze.serve.traffic.routing import Route


@runtime_checkable
class ServedModel(Protocol):
    """A version of a model that classifies images."""

    name: str
    version: str
    max_batch: int
    statistics: dict[bool, Statistics]
    own_statistics: dict[bool, Statistics]

    @property
    def manifest(self) -> Manifest:
        """Its metadata."""

    @property
    def plan(self) -> object:
        """Its execution plan."""

    @property
    def pending(self) -> int:
        """Number of images of accepted requests."""

    @property
    def drift(self) -> WindowDrift:
        """How far the latest images are from the validation images; empty if that is not measured, or elsewhere."""

    def in_use(self) -> AbstractContextManager[Self]:
        """Keep it loaded while the body runs."""

    def check_size(self, images: int) -> None:
        """Check that a request of so many images could be accepted by an empty queue."""

    def check_capacity(self, deadline: float | None) -> None:
        """Check that a request of a single image can be accepted now."""

    async def classify(
        self,
        images: Sequence[EncodedImage] | UInt8[np.ndarray, "n h w 3"],
        deadline: float | None = None,
        priority: int = DEFAULT_PRIORITY,
    ) -> Float32[np.ndarray, "n c"]:
        """Classify images: return rows that `unfreeze.contract.answers` reads."""


@runtime_checkable
class ServedModels(Protocol):
    """The served models."""

    def __iter__(self) -> Iterator[ServedModel]:
        """Iterate over all loaded versions."""

    @property
    def available(self) -> bool:
        """Whether the process that executes the models is running."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the loaded models."""

    def versions(self, name: str) -> tuple[str, ...]:
        """Return the loaded versions of a model, oldest first."""

    def find(self, name: str, version: str = "") -> ServedModel:
        """Look up a model."""

    def use(self, name: str, version: str = "", key: str = "") -> AbstractContextManager[ServedModel]:
        """Look up the model for a request, and keep it loaded while the body runs.

        Args:
            name: name in the repository.
            version: version number; empty for one by the traffic of the model, or else for the newest.
            key: requests with the same one get the same version.
        """

    def are_busy(self) -> bool:
        """Check whether every model has accepted images that are not classified yet."""

    def check_capacity(self, deadline: float | None) -> None:
        """Check that at least one model can accept a request of a single image now."""

    def states(self) -> tuple[VersionState, ...]:
        """Return the state of every version in the repository, as of the last `synchronize`."""

    async def synchronize(self) -> None:
        """Bring states and statistics up to date."""

    async def refresh(self) -> None:
        """Load new versions from the repository and unload removed ones."""

    async def open(self) -> None:
        """Wait until models are loaded."""

    async def load(self, name: str) -> None:
        """Load the newest versions of a model."""

    async def unload(self, name: str) -> None:
        """Stop serving a model."""

    async def traffic(self, name: str) -> dict[str, Any]:
        """Describe the traffic of a model, as the message `Traffic` has it."""

    async def set_traffic(self, name: str, settings: TrafficSettings) -> None:
        """Divide the requests of a model among its versions."""

    async def close(self) -> None:
        """Answer the accepted requests and close all models."""


_Model = TypeVar("_Model", bound=ServedModel)


class LoadedVersions(Generic[_Model]):
    """Loaded versions by name and number.

    Attributes:
        by_name: the versions of each model that has any, by number.
        routes: of each model whose requests are divided among loaded versions.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, dict[int, _Model]] = {}
        self.routes: dict[str, Route] = {}

    def __iter__(self) -> Iterator[_Model]:
        """Iterate over all versions."""
        return (model for versions in self.by_name.values() for model in versions.values())

    def versions(self, name: str) -> tuple[str, ...]:
        """Return the versions of a model, oldest first."""
        return tuple(self.by_name[name][number].version for number in sorted(self.by_name.get(name, ())))

    def find(self, name: str, version: str = "") -> _Model:
        """Look up a model.

        Args:
            name: name in the repository; may be empty if only one model is loaded.
            version: version number; empty for the newest loaded version, or the stable one of a route.

        Raises:
            UnknownModelError: the model or the version is not loaded; the message lists those that are.
        """
        resolved = self.resolve(name)
        versions = self.by_name[resolved]
        if not version:
            route = self.routes.get(resolved)
            return versions[max(versions) if route is None else route.stable]
        for model in versions.values():
            if model.version == version:
                return model
        loaded = ", ".join(str(number) for number in sorted(versions))
        raise UnknownModelError(f"unknown version {version!r:.50} of model {resolved}; loaded versions: {loaded}")

    def resolve(self, name: str) -> str:
        """Return the name of a model, which may be left out if only one is loaded.

        Raises:
            UnknownModelError: the model is not loaded.
        """
        resolved = name or (next(iter(self.by_name)) if len(self.by_name) == 1 else "")
        if resolved not in self.by_name:
            raise UnknownModelError(f"unknown model {name!r:.200}; loaded models: {self.names_text()}")
        return resolved

    def choose(self, name: str, key: str) -> tuple[_Model, _Model | None]:
        """Choose the version for a request that names none.

        Args:
            name: name in the repository; may be empty if only one model is loaded.
            key: requests with the same one get the same version.

        Returns:
            The version, and the shadow that gets a copy of the request; None for no copy.

        Raises:
            UnknownModelError: the model is not loaded.
        """
        resolved = self.resolve(name)
        route, versions = self.routes.get(resolved), self.by_name[resolved]
        if route is None:
            return versions[max(versions)], None
        number, is_sampled = route.choose(key)
        return versions[number], versions[route.shadow] if is_sampled else None

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

    def names_text(self) -> str:
        """List the names for a message."""
        return ", ".join(sorted(self.by_name)) or "none"
