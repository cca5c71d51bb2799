"""The state of each version in the repository."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
VersionKey = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class VersionState:
    """The state of a version.

    Args:
        name: name of the model.
        version: version number.
        state: in the terms of Triton's model repository extension.
        reason: why the version is unavailable.
    """

    name: str
    version: str
    state: State
    reason: str = ""


class VersionStates:
    """The states of all versions that are, or were, in the repository."""

    def __init__(self) -> None:
        self._states: dict[VersionKey, VersionState] = {}

    def set(self, key: VersionKey, state: State, reason: str = "") -> None:
        """Set the state of a version."""
        self._states[key] = VersionState(name=key[0], version=str(key[1]), state=state, reason=reason)

    def all(self) -> tuple[VersionState, ...]:
        """Return all states, by name and version."""
        return tuple(self._states[key] for key in sorted(self._states))

    def forget(self, is_gone: Callable[[VersionKey], bool]) -> None:
        """Remove the states of the versions that a predicate selects."""
        for key in [key for key in self._states if is_gone(key)]:
            del self._states[key]
