"""Which version a source offers, and of which files it consists."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from unfreeze.contract.errors import OptionsError, RefusedVersionError, SourceError
from unfreeze.contract.model.repository import INDEX_FILE, MODEL_FILE, SIGNATURE_FILE
from unfreeze.device.sources import Source
from unfreeze.device.versions import parse_version

DEFAULT_CHANNEL = "stable"
_CHANNEL_BYTES, _SMALL_BYTES, _MOST_FILES = 1024, 1 << 20, 64
_CHANNEL = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._-]{0,127})")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The version that a source offers.

    Args:
        number: of the version.
        chosen: whether a channel names it; otherwise it is the newest one.
    """

    number: int
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class OfferedVersion:
    """The small files of a version.

    Args:
        number: of the version.
        index: content of `SHA256SUMS`.
        signature: content of `model.sig`; None if there is none.
    """

    number: int
    index: bytes
    signature: bytes | None

    def identity(self, public_key: Path | None) -> str:
        """Return a digest of the version's content and of what it was checked with."""
        key = public_key.read_bytes() if public_key is not None and public_key.is_file() else b""
        return hashlib.sha256(
            b"\0".join([str(self.number).encode(), self.index, self.signature or b"", key])
        ).hexdigest()

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each file that the index lists, by name.

        Raises:
            RefusedVersionError: a line is not valid, or there is no model.
        """
        lines = self.index.decode(errors="replace").splitlines()
        found = [_LINE.fullmatch(line) for line in lines[: _MOST_FILES + 1]]
        names = {line[2]: line[1] for line in found if line is not None}
        if None in found or len(names) != len(lines) or MODEL_FILE not in names:
            raise RefusedVersionError(
                f"{INDEX_FILE} of version {self.number} is not valid: each of at most {_MOST_FILES} lines must have a "
                f"SHA-256 digest and a file's name, and {MODEL_FILE} must be one of them"
            )
        if {INDEX_FILE, SIGNATURE_FILE} & names.keys():
            raise RefusedVersionError(f"{INDEX_FILE} of version {self.number} lists itself or the signature")
        return names


def find_wanted(source: Source, channel: str | None) -> Wanted:
    """Find out which version a device should have.

    Args:
        source: of the model.
        channel: name of the file that names the version; None for `stable` if there is one, and otherwise the newest.

    Raises:
        OptionsError: the channel's name is not valid.
        SourceError: there is no version, no channel, or no number in it.
    """
    name = channel or DEFAULT_CHANNEL
    if _CHANNEL.fullmatch(name) is None:
        raise OptionsError(f"--channel must be a name like stable or canary, got {name!r:.100}")
    content = source.read(name, _CHANNEL_BYTES)
    if content is not None:
        number = parse_version(content.decode(errors="replace").strip())
        if number is None:
            raise SourceError(f"the channel {name} must contain the number of a version, found {content!r:.100}")
        return Wanted(number=number, chosen=True)
    versions = source.versions() if channel is None else None
    if channel is not None or versions is None:
        raise SourceError(f"the source has no channel {name}: write the number of a version into a file of this name")
    if not versions:
        raise SourceError("the source has no version")
    return Wanted(number=versions[-1], chosen=False)


def read_offered(source: Source, number: int) -> OfferedVersion:
    """Read the small files of a version.

    Raises:
        SourceError: they cannot be read, or the version has no index, without which it is not complete.
    """
    index = source.read(f"{number}/{INDEX_FILE}", _SMALL_BYTES)
    if index is None:
        raise SourceError(f"the source has no {number}/{INDEX_FILE}; `unfreeze export` writes it")
    signature = source.read(f"{number}/{SIGNATURE_FILE}", _SMALL_BYTES)
    return OfferedVersion(number=number, index=index, signature=signature)
