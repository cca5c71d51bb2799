"""Requests are divided by share, and a key always gets the same version."""

from collections import Counter

import pytest

from unfreeze.contract.traffic import TrafficSettings
from unfreeze.serve.traffic.routing import Route, position

NAMES = [f"caller-{number}" for number in range(20_000)]


def _route(loaded: tuple[int, ...], shadow: dict[str, float] | None = None, **split: float) -> Route | None:
    shares = {name.removeprefix("v"): share for name, share in split.items()}
    return Route.create("flowers", TrafficSettings(split=shares, shadow=shadow or {}), loaded)


def test_shares_of_keys() -> None:
    """Of 20,000 keys, 5 % get the new version: within five standard deviations, 155 keys."""
    route = _route((3, 4), v3=95, v4=5)
    found = Counter(route.choose(name)[0] for name in NAMES)
    assert abs(found[4] - 1000) < 155
    assert [route.choose(name) for name in NAMES[:100]] == [route.choose(name) for name in NAMES[:100]]


def test_a_larger_share_keeps_its_callers() -> None:
    """Callers that had the new version at 5 % have it at 20 %."""
    small, large = _route((3, 4), v3=95, v4=5), _route((3, 4), v3=80, v4=20)
    assert all(large.choose(name)[0] == 4 for name in NAMES if small.choose(name)[0] == 4)


def test_the_position_of_a_key_is_fixed() -> None:
    """Other processes and later releases must compute the same: BLAKE2b of model and key, from 0 to 1."""
    assert position("flowers", "caller-1") == 0.7605393663284686
    assert position("flowers", "") != position("flowers", "")


def test_the_share_of_a_version_that_is_not_loaded_goes_to_the_others() -> None:
    """In proportion to their shares."""
    route = _route((1, 3), v1=60, v2=20, v3=20)
    assert (route.share(1), route.share(2), route.share(3)) == (0.75, 0.0, pytest.approx(0.25))


def test_nothing_of_the_split_is_loaded() -> None:
    """The newest version answers."""
    route = _route((7, 8), v3=95, v4=5)
    assert (route.stable, route.share(8)) == (8, 1.0)


def test_only_a_shadow() -> None:
    """The newest version that is no shadow answers, and copies are of the share asked for."""
    route = _route((3, 4), shadow={"4": 10})
    assert (route.stable, route.share(3), route.share(4), route.shadow) == (3, 1.0, 0.0, 4)
    copies = sum(route.choose(name)[1] for name in NAMES)
    assert abs(copies - 2000) < 5 * (20_000 * 0.1 * 0.9) ** 0.5


def test_only_requests_of_the_stable_version_are_copied() -> None:
    """Those that the canary answered are not."""
    route = _route((3, 4), shadow={"4": 100}, v3=50, v4=50)
    assert {route.choose(name) for name in NAMES[:100]} == {(3, True), (4, False)}


def test_nothing_to_divide() -> None:
    """Without settings, and where the shadow is the only version, there is no route."""
    assert _route((1, 2)) is None
    assert _route((4,), shadow={"4": 10}) is None
