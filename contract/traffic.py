"""How the requests of a model are divided among its versions: a split, a shadow, and a rule that ends the trial."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from unfreeze.contract.errors import OptionsError
from unfreeze.contract.model.schema import decode, loads

TRAFFIC_FILE = "traffic.json"
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_MAX_SHARE, _MAX_VERSIONS, _MAX_BYTES, _ALL = 1e6, 32, 2**16, 100.0
Action = Literal["promote", "take-back", "both"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When a new version has proved itself, and when it is taken back. What is None is not checked.

    Args:
        minimum_images: images that a version must have classified before it is promoted.
        max_error_rate: share of failed requests, 0 to 1.
        max_p99_ratio: 99th percentile of its latency, as a multiple of the stable version's.
        max_disagreement: share of shadowed images with another top label than the stable version gave, 0 to 1.
        action: what the server may do by itself.
    """

    minimum_images: int = 500
    max_error_rate: float | None = None
    max_p99_ratio: float | None = None
    max_disagreement: float | None = None
    action: Action = "take-back"

    def __post_init__(self) -> None:
        """Validate the limits."""
        if self.minimum_images < 1:
            raise OptionsError(f"minimum_images must be at least 1, got {self.minimum_images}")
        for name in ("max_error_rate", "max_disagreement"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise OptionsError(f"{name} must be between 0 and 1, got {value:g}")
        if self.max_p99_ratio is not None and not 1 <= self.max_p99_ratio <= _MAX_SHARE:
            raise OptionsError(f"max_p99_ratio must be at least 1, got {self.max_p99_ratio:g}")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a rule decided.

    Args:
        action: what was done.
        version: with which version.
        reason: the counts behind it.
        time: when, in UTC as ISO 8601 has it.
    """

    action: Literal["promoted", "taken back"]
    version: str
    reason: str
    time: str


@dataclass(frozen=True, kw_only=True)
class TrafficSettings:
    """How the requests that name no version are divided.

    Args:
        split: weight of each version; the oldest with a weight above 0 is the stable one. Empty for the newest version.
        shadow: version that classifies copies of the stable version's requests, and their share in percent.
        rule: ends the trial; None for none.
        decision: the last one of a rule; None if there was none.
    """

    split: dict[str, float] = field(default_factory=dict)
    shadow: dict[str, float] = field(default_factory=dict)
    rule: Rule | None = None
    decision: Decision | None = None

    def __post_init__(self) -> None:
        """Validate versions and shares."""
        _check_shares("split", self.split, _MAX_SHARE)
        _check_shares("shadow", self.shadow, _ALL)
        if len(self.split) > _MAX_VERSIONS:
            raise OptionsError(f"a split has at most {_MAX_VERSIONS} versions, got {len(self.split)}")
        if self.split and not any(self.split.values()):
            raise OptionsError("a split needs a version with a share above 0")
        if len(self.shadow) > 1:
            raise OptionsError(f"a model has at most one shadow, got versions {', '.join(self.shadow)}")
        if self.stable in self.shadow:
            raise OptionsError(
                f"version {self.stable} cannot be the shadow, because it is the stable version: the oldest of the split"
            )
        if self.rule is not None and self.rule.max_disagreement is not None:
            for version in self.canaries:
                if version not in self.shadow:
                    raise OptionsError(
                        f"max_disagreement is measured by a shadow, and version {version} is none: add it to the shadow"
                    )

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions that are named."""
        return tuple(sorted({int(version) for version in (*self.split, *self.shadow)}))

    @property
    def stable(self) -> str | None:
        """The stable version; None without a split, for the newest version that is no shadow."""
        return min((one for one, share in self.split.items() if share), key=int, default=None)

    @property
    def canaries(self) -> tuple[str, ...]:
        """The versions on trial: those of the split that are newer than the stable one, and the shadow."""
        shared = {one for one, share in self.split.items() if share and one != self.stable}
        return tuple(sorted(shared | {one for one, share in self.shadow.items() if share}, key=int))

    def promoted(self, decision: Decision) -> "TrafficSettings":
        """Return the settings that give a version all requests."""
        split = dict.fromkeys(self.split, 0.0) | {decision.version: _ALL}
        return dataclasses.replace(self, split=split, shadow=self._other_shadow(decision.version), decision=decision)

    def taken_back(self, decision: Decision, stable: str) -> "TrafficSettings":
        """Return the settings that give a version no requests.

        Args:
            decision: about the version.
            stable: gets all requests where there was no split.
        """
        split = (self.split or {stable: _ALL}) | ({decision.version: 0.0} if decision.version in self.split else {})
        return dataclasses.replace(self, split=split, shadow=self._other_shadow(decision.version), decision=decision)

    def _other_shadow(self, version: str) -> dict[str, float]:
        return {one: share for one, share in self.shadow.items() if one != version}

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON has it, without what is not set."""
        document = dataclasses.asdict(self)
        if self.rule is not None:
            document["rule"] = {name: value for name, value in document["rule"].items() if value is not None}
        return {name: value for name, value in document.items() if value is not None}

    def to_json(self) -> str:
        """Write it as JSON for people."""
        return json.dumps(self.to_document(), indent=2) + "\n"


def traffic_from(document: Any) -> TrafficSettings:
    """Read settings from parsed JSON.

    Raises:
        ManifestError: the document is not valid; the message ends with the path of the invalid value.
    """
    return decode(TrafficSettings, document)


def traffic_from_json(text: bytes) -> TrafficSettings:
    """Read settings from JSON.

    Raises:
        ManifestError: as `traffic_from`.
    """
    return traffic_from(loads(text, max_bytes=_MAX_BYTES))


def parse_shares(text: str, option: str) -> dict[str, float]:
    """Read shares such as `3:95,4:5`.

    Args:
        text: of the option; empty for none.
        option: its name, for the message.

    Raises:
        OptionsError: it is not of this form.
    """
    shares: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        version, colon, share = part.strip().partition(":")
        try:
            number = float(share)
        except ValueError:
            number = math.nan
        if not colon or not _VERSION.fullmatch(version) or version in shares or not math.isfinite(number):
            raise OptionsError(
                f"{option} must be VERSION:SHARE,... with each version once, such as 3:95,4:5; got {text!r}"
            )
        shares[version] = number
    return shares


def traffic_of_options(split: tuple[str, ...], shadow: tuple[str, ...]) -> dict[str, TrafficSettings]:
    """Read the settings of each model from `--split` and `--shadow`.

    Args:
        split: of each model, such as `flowers=3:95,4:5`.
        shadow: of each model, such as `flowers=4:10`.

    Raises:
        OptionsError: an option is not of this form, or a model has two.
    """
    splits, shadows = _by_model(split, "--split"), _by_model(shadow, "--shadow")
    found = {}
    for name in sorted(splits.keys() | shadows.keys()):
        try:
            found[name] = TrafficSettings(split=splits.get(name, {}), shadow=shadows.get(name, {}))
        except OptionsError as error:
            raise OptionsError(f"--split or --shadow of {name}: {error}") from None
    return found


def _by_model(texts: tuple[str, ...], option: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for text in texts:
        name, equals, shares = text.partition("=")
        if not name or not equals or not shares or name in found:
            raise OptionsError(
                f"{option} must be MODEL=VERSION:SHARE,... with each model once, such as flowers=3:95,4:5; got {text!r}"
            )
        found[name] = parse_shares(shares, option)
    return found


def _check_shares(name: str, shares: Mapping[str, float], most: float) -> None:
    for version, share in shares.items():
        if not _VERSION.fullmatch(version):
            raise OptionsError(f"{name}: {version!r:.50} is not a version number")
        if not 0 <= share <= most:
            raise OptionsError(f"{name}: the share of version {version} must be from 0 to {most:,.0f}, got {share:g}")
