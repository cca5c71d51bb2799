"""Which version answers a request that names none."""

import random
from bisect import bisect
from collections.abc import Collection, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate

from unfreeze.contract.traffic import TrafficSettings

STICKY_HEADER = "x-unfreeze-sticky"
sticky_header: ContextVar[str] = ContextVar("sticky_header", default="")
_BITS = 53  # of a fraction


def keep_sticky_header(metadata: Iterable[tuple[str, str | bytes]]) -> None:
    """Keep the key of the caller, until the call ends, from its metadata or headers."""
    for name, value in metadata:
        if name == STICKY_HEADER and isinstance(value, str):
            sticky_header.set(value)
            return


@dataclass(frozen=True, kw_only=True)
class Route:
    """The loaded versions that share the requests of a model.

    Args:
        name: of the model.
        versions: those with a share, oldest first.
        bounds: where the share of each version ends, ascending to 1.
        stable: the version whose answers a shadow is compared with, and which is described if none is named.
        shadow: version that classifies copies; 0 for none.
        sampled: share of the stable version's requests that are copied, 0 to 1.
    """

    name: str
    versions: tuple[int, ...]
    bounds: tuple[float, ...]
    stable: int
    shadow: int
    sampled: float

    @classmethod
    def create(cls, name: str, settings: TrafficSettings, loaded: Collection[int]) -> "Route | None":
        """Divide the requests among the versions that are loaded.

        Args:
            name: of the model.
            settings: the shares.
            loaded: versions.

        Returns:
            The route; None if there is nothing to divide, so that the newest version answers.
        """
        shadow, percent = next(((int(one), share) for one, share in settings.shadow.items()), (0, 0.0))
        shares = {int(one): share for one, share in settings.split.items() if share and int(one) in loaded}
        others = [number for number in loaded if number != shadow]
        if not shares and not others:
            return None
        if not shares:  # nothing of the split is loaded, or there is only a shadow
            if not settings.split and shadow not in loaded:
                return None
            shares = {max(others): 1.0}
        versions, total = tuple(sorted(shares)), sum(shares.values())
        return cls(
            name=name,
            versions=versions,
            bounds=tuple(accumulate(shares[number] / total for number in versions)),
            stable=versions[0],
            shadow=shadow if shadow in loaded and shadow != versions[0] else 0,
            sampled=percent / 100,
        )

    def share(self, version: int) -> float:
        """Return the share of a version, 0 to 1."""
        if version not in self.versions:
            return 0.0
        index = self.versions.index(version)
        return self.bounds[index] - (self.bounds[index - 1] if index else 0.0)

    def choose(self, key: str) -> tuple[int, bool]:
        """Choose a version.

        Args:
            key: requests with the same one get the same version; empty for a random version. The header
                `x-unfreeze-sticky` goes before it.

        Returns:
            The version, and whether the shadow gets a copy.
        """
        at = position(self.name, sticky_header.get() or key)
        version = self.versions[min(bisect(self.bounds, at), len(self.versions) - 1)]
        is_sampled = bool(self.shadow) and version == self.stable and random.random() < self.sampled  # noqa: S311
        return version, is_sampled


def position(name: str, key: str) -> float:
    """Map a key to a number from 0 to below 1, the same in every process; without a key it is random.

    Args:
        name: of the model, so that the same callers are not the first to get every model's new version.
        key: of the caller.
    """
    if not key:
        return random.random()  # noqa: S311 - it protects nothing
    digest = blake2b(f"{name}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return float((int.from_bytes(digest) >> (64 - _BITS)) / 2**_BITS)
