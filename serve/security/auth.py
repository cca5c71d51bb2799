"""Bearer token authentication."""

import hmac
import logging
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from unfreeze.contract.errors import OptionsError

_UNAUTHENTICATED_PREFIX = "/grpc.health.v1.Health/"  # health probes have no token; they can read only service names
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1
_SCHEME = "bearer "
_HOW = "send the metadata `authorization: Bearer TOKEN`"
_MISSING = f"a token is required, and the request has none; {_HOW}"
_INVALID = f"invalid token; {_HOW} with a valid token"
_log = logging.getLogger(__name__)


def read_tokens(path: Path) -> tuple[str, ...]:
    """Read a token file: one token per line; empty lines are ignored.

    Logs a warning if all users of the machine can read the file.

    Args:
        path: token file.

    Raises:
        OptionsError: the file cannot be read, has no token, or has a line that is not a valid token.
    """
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
        world_readable = os.name == "posix" and path.stat().st_mode & stat.S_IROTH
    except OSError as error:
        raise OptionsError(f"cannot read --token-file {path}: {error.strerror}") from None
    if world_readable:
        _log.warning("the token file %s is readable by all users of this machine; restrict it with chmod 600", path)
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    for number, token in numbered:
        if not _TOKEN.fullmatch(token):  # the message must not contain it
            raise OptionsError(
                f"--token-file {path}, line {number}: invalid token; a token consists of letters, digits and -._~+/, "
                "optionally followed by =; write one token per line and nothing else"
            )
    if not numbered:
        raise OptionsError(f"--token-file {path} contains no token; write one token per line")
    return tuple(token for _, token in numbered)


class Tokens:
    """The valid tokens.

    Args:
        tokens: their texts.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = tuple(token.encode() for token in tokens)

    def accept(self, authorization: str) -> bool:
        """Return whether an authorization, `Bearer TOKEN`, has a valid token."""
        scheme, token = authorization[: len(_SCHEME)].lower(), authorization[len(_SCHEME) :].strip().encode()
        # Compare with all tokens in constant time, so that the duration leaks nothing about them.
        matches = [hmac.compare_digest(valid, token) for valid in self._tokens]
        return scheme == _SCHEME and any(matches)


class Authentication:
    """Checks the tokens of gRPC calls, except of calls to `grpc.health.v1`.

    Args:
        tokens: valid tokens.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def rejection(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """Check a call before any of its messages is read.

        Args:
            method: full name of its method.
            metadata: its metadata.

        Returns:
            Why it is rejected; empty if it is not.
        """
        if method.startswith(_UNAUTHENTICATED_PREFIX):
            return ""
        sent = [value for key, value in metadata or () if key == "authorization"]
        if not sent:
            return _MISSING
        return "" if len(sent) == 1 and self._tokens.accept(_as_text(sent[0])) else _INVALID


def _as_text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
