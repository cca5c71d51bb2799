"""The traffic of a server with front-end processes: they choose versions, and this process runs the shadows."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from unfreeze.contract.arrays import Float32, UInt8
from unfreeze.serve.models.loaded_model import LoadedModel
from unfreeze.serve.models.registry import ModelRegistry
from unfreeze.serve.scheduling.statistics import Statistics, statistics_from

_log = logging.getLogger(__name__)


class BridgedTraffic:
    """Lets the traffic of the loaded models count what happens in other processes.

    Args:
        models: the loaded models.
        handles: returns the numbers of the loaded versions.
        counts: sums the counters of all processes, by number of the loaded version.
        accepted: returns the images of a version that all processes have accepted.
    """

    def __init__(
        self,
        models: ModelRegistry,
        handles: Callable[[], dict[int, LoadedModel]],
        counts: Callable[[], dict[str, Any]],
        accepted: Callable[[int], int],
    ) -> None:
        self._models, self._handles, self._counts = models, handles, counts
        self._refused: set[LoadedModel] = set()
        self._traffic = models.served_traffic
        self._traffic.shadows.pending = lambda: sum(accepted(handle) for handle in handles())
        self._traffic.control.statistics = self._statistics

    def document(self) -> dict[str, Any]:
        """Describe for front-end processes how the requests of each model are divided."""
        control = self._traffic.control
        return {name: control.settings(name).to_document() for name in control.names}

    def offer(
        self,
        model: LoadedModel,
        pixels: UInt8[np.ndarray, "n h w 3"],
        probabilities: Float32[np.ndarray, "n c"],
    ) -> None:
        """Let the shadow of a model have a copy of prepared images, which another process will overwrite."""
        route = self._models.route(model.name)
        if route is None or not route.shadow:
            return
        shadow = self._models.find(model.name, str(route.shadow))
        if shadow.manifest.preprocess == model.manifest.preprocess:
            self._traffic.shadows.offer(model, shadow, pixels, probabilities, overwritten=True)
            return
        self._traffic.shadows.of(shadow).dropped += len(pixels)
        if shadow not in self._refused:
            self._refused.add(shadow)
            _log.warning(
                "model %s version %s gets no copies: it prepares images differently from version %s, and with "
                "--frontends a shadow gets the images as the stable version has them",
                *(model.name, shadow.version, model.version),
            )

    def _statistics(self, model: Any) -> Iterable[Statistics]:
        handle = next((number for number, one in self._handles().items() if one is model), -1)
        return statistics_from(self._counts()["models"].get(str(handle), {})).values()
