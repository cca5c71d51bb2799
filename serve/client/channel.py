"""How a client reaches a server: deadlines, retries, sizes, TLS and tokens; the same for both clients."""

import json
import os
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import grpc

from unfreeze.contract.errors import OptionsError
from unfreeze.contract.options import check_ranges
from unfreeze.serve.security.binding import is_this_machine_alone

_SERVICE = "unfreeze.v1.Classifier"
_GRPC_ATTEMPTS = 5  # gRPC itself makes no more, whatever it is told
_TOKEN = re.compile(r"[\x21-\x7e]+")
_File = str | os.PathLike[str] | None


class ConnectionKeywords(TypedDict, total=False):
    """What `Client` and `AsyncClient` take beside their target: see `Connection`."""

    timeout_s: float
    attempts: int
    in_flight: int
    max_message_mib: int
    tls: bool
    tls_ca: _File
    tls_cert: _File
    tls_key: _File
    token: str | None
    insecure: bool


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Where a server is, and how to ask it.

    Args:
        target: "host:port".
        timeout_s: for each call, with all that gRPC does to have it answered, in seconds.
        attempts: how often a call is made that a server refuses for the moment; 1 to make it once.
        in_flight: requests of one folder that are at work at the same time.
        max_message_mib: the largest request, in MiB, as the server's `--max-message-mib`; larger images are not read.
        tls: encrypt, and trust this machine's root certificates; `tls_ca` and `tls_cert` imply it.
        tls_ca: PEM file of root certificates to trust in their place.
        tls_cert: PEM file of this client's certificate, for servers that ask for one.
        tls_key: PEM file of its key.
        token: sent as `authorization: Bearer TOKEN`.
        insecure: send the token to another machine without TLS, where something else encrypts.

    Raises:
        OptionsError: a value is out of its range, a file cannot be read, or others could read the token.
    """

    target: str
    timeout_s: float = 30.0
    attempts: int = 10
    in_flight: int = 4
    max_message_mib: int = 64
    tls: bool = False
    tls_ca: _File = None
    tls_cert: _File = None
    tls_key: _File = None
    token: str | None = field(default=None, repr=False)
    insecure: bool = False

    def __post_init__(self) -> None:
        """Validate once, where it is built."""
        ranges = {
            "timeout_s": (0.001, 86_400),
            "attempts": (1, 1000),
            "in_flight": (1, 256),
            "max_message_mib": (1, 2047),
        }
        check_ranges(vars(self), ranges)
        if (self.tls_cert is None) != (self.tls_key is None):
            raise OptionsError("a client's certificate and its key go together: give both --tls-cert and --tls-key")
        if self.token is None:
            return
        if not _TOKEN.fullmatch(self.token):  # the message must not show it
            raise OptionsError(
                "the token is empty, or holds characters that no token has: spaces, or others than ASCII"
            )
        if not (self.secure or self.insecure or is_this_machine_alone(_host(self.target))):
            raise OptionsError(
                f"others could read the token on its way to {self.target}: use TLS (--tls, --tls-ca), or say "
                "--insecure where something else encrypts"
            )

    @property
    def secure(self) -> bool:
        """Whether calls travel over TLS."""
        return self.tls or self.tls_ca is not None or self.tls_cert is not None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What each call carries; over TLS the token is gRPC's own matter, which never sends it in the clear."""
        return () if self.token is None or self.secure else (("authorization", f"Bearer {self.token}"),)

    @property
    def max_message_bytes(self) -> int:
        """The largest request."""
        return self.max_message_mib * 2**20

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files and give what TLS needs, with the token where there is one.

        Raises:
            OptionsError: a file cannot be read.
        """
        roots = _system_roots() if self.tls_ca is None else _read("--tls-ca", self.tls_ca)
        cert, key = _read("--tls-cert", self.tls_cert), _read("--tls-key", self.tls_key)
        channel = grpc.ssl_channel_credentials(roots, key, cert)
        if self.token is None:
            return channel
        return grpc.composite_channel_credentials(channel, grpc.access_token_call_credentials(self.token))

    def channel_options(self) -> list[tuple[str, int | str]]:
        """Give gRPC's channel arguments.

        A call is retried only while gRPC keeps its request, by default no more than 256 KiB of it.
        """
        return [
            ("grpc.service_config", json.dumps({"methodConfig": [self._method_config()]})),
            ("grpc.per_rpc_retry_buffer_size", 2 * self.max_message_bytes),
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_receive_message_length", -1),  # labels, as many as were asked for
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
        ]

    def _method_config(self) -> dict[str, object]:
        """Let gRPC retry what may reach another server, or the same one started anew; all calls may be repeated."""
        policy = {
            "maxAttempts": min(self.attempts, _GRPC_ATTEMPTS),
            "initialBackoff": "0.1s",
            "maxBackoff": "2s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        return {"name": [{"service": _SERVICE}]} | ({"retryPolicy": policy} if self.attempts > 1 else {})


def _host(target: str) -> str:
    """Take the host out of HOST:PORT or [HOST]:PORT; other forms are no host."""
    return target.rpartition(":")[0] or target


def _read(option: str, path: _File) -> bytes | None:
    try:
        return None if path is None else Path(path).read_bytes()
    except OSError as error:
        raise OptionsError(f"{option} {path} cannot be read: {error.strerror}") from None


def _system_roots() -> bytes | None:
    """Give the certificates that this machine trusts; where none are found, None stands for those that gRPC carries."""
    found = ssl.create_default_context().get_ca_certs(binary_form=True)
    return "".join(map(ssl.DER_cert_to_PEM_cert, found)).encode() or None
