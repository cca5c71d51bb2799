"""Client options and the gRPC channel: timeouts, retries, message sizes, TLS and tokens, for both clients."""

import json
import os
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias, TypedDict

import grpc

from unfreeze.contract.errors import OptionsError
from unfreeze.contract.options import check_ranges
from unfreeze.serve.security.binding import is_loopback, is_unix_target

_SERVICE = "unfreeze.v1.Classifier"
_GRPC_MAX_ATTEMPTS = 5  # gRPC's own limit for retry policies
_TOKEN = re.compile(r"[\x21-\x7e]+")
_Path: TypeAlias = str | os.PathLike[str] | None


class ClientKeywords(TypedDict, total=False):
    """Keyword arguments of `Client` and `AsyncClient`; see `ClientOptions`."""

    timeout_s: float
    max_attempts: int
    max_in_flight: int
    max_message_mib: int
    tls: bool
    tls_ca: _Path
    tls_cert: _Path
    tls_key: _Path
    token: str | None
    insecure: bool
    store: bool


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """Options of a client.

    Args:
        target: address of the server, "host:port" or "unix:///path".
        timeout_s: deadline of each call including its retries by gRPC, in seconds.
        max_attempts: maximum number of attempts of a call while the server is overloaded or unavailable; 1 disables
            retries.
        max_in_flight: maximum number of concurrent requests of one `classify`.
        max_message_mib: maximum size of a request, in MiB, as the server's `--max-message-mib`; larger images are not
            sent.
        tls: use TLS with the root certificates of the system; implied by `tls_ca` and `tls_cert`.
        tls_ca: PEM file of root certificates to use instead of the system's.
        tls_cert: PEM file of the client certificate, for mutual TLS.
        tls_key: PEM file of the private key of `tls_cert`.
        token: bearer token, sent as `authorization: Bearer TOKEN`.
        insecure: allow sending the token to another machine without TLS, for networks that are encrypted otherwise.
        store: allow a server that runs with `--record` to store the images, so that people can correct its answers;
            False says nothing, and the server's operator decides.

    Raises:
        OptionsError: a value is out of range, a file cannot be read, or the token would be sent unencrypted.
    """

    target: str
    timeout_s: float = 30.0
    max_attempts: int = 10
    max_in_flight: int = 4
    max_message_mib: int = 64
    tls: bool = False
    tls_ca: _Path = None
    tls_cert: _Path = None
    tls_key: _Path = None
    token: str | None = field(default=None, repr=False)
    insecure: bool = False
    store: bool = False

    def __post_init__(self) -> None:
        """Validate the options."""
        ranges = {
            "timeout_s": (0.001, 86_400),
            "max_attempts": (1, 1000),
            "max_in_flight": (1, 256),
            "max_message_mib": (1, 2047),
        }
        check_ranges(vars(self), ranges)
        if (self.tls_cert is None) != (self.tls_key is None):
            raise OptionsError("a client certificate requires its private key: give both --tls-cert and --tls-key")
        if self.token is None:
            return
        if not _TOKEN.fullmatch(self.token):  # the message must not contain it
            raise OptionsError(
                "invalid token: it must not be empty and must consist of ASCII characters without spaces"
            )
        if not (self.uses_tls or self.insecure or is_unix_target(self.target) or is_loopback(_host(self.target))):
            raise OptionsError(
                f"the token would be sent to {self.target} unencrypted: use TLS (--tls, --tls-ca), or give --insecure "
                "if the network is encrypted otherwise"
            )

    @property
    def uses_tls(self) -> bool:
        """Whether the channel uses TLS."""
        return self.tls or self.tls_ca is not None or self.tls_cert is not None

    @property
    def max_message_bytes(self) -> int:
        """Maximum size of a request, in bytes."""
        return self.max_message_mib * 2**20

    def open_channel(self, api: ModuleType) -> Any:
        """Open a channel to the server.

        Args:
            api: `grpc` or `grpc.aio`.

        Returns:
            A `grpc.Channel` or `grpc.aio.Channel`.

        Raises:
            OptionsError: a certificate file cannot be read.
        """
        if self.uses_tls:
            return api.secure_channel(self.target, self._credentials(), options=self._channel_arguments())
        return api.insecure_channel(self.target, options=self._channel_arguments())

    def call_arguments(self, *, wait_for_ready: bool) -> dict[str, Any]:
        """Return the keyword arguments of a call.

        Args:
            wait_for_ready: wait for an unavailable server until the deadline; otherwise fail soon.
        """
        # With TLS, the token is part of the channel's credentials, which gRPC never sends unencrypted.
        has_metadata = self.token is not None and not self.uses_tls
        token = [("authorization", f"Bearer {self.token}")] if has_metadata else []
        metadata = (*token, *([("x-unfreeze-store", "yes")] if self.store else []))
        return {"timeout": self.timeout_s, "metadata": metadata, "wait_for_ready": wait_for_ready or None}

    def _credentials(self) -> grpc.ChannelCredentials:
        roots = _system_roots() if self.tls_ca is None else _read("--tls-ca", self.tls_ca)
        cert, key = _read("--tls-cert", self.tls_cert), _read("--tls-key", self.tls_key)
        credentials = grpc.ssl_channel_credentials(roots, key, cert)
        if self.token is None:
            return credentials
        return grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(self.token))

    def _channel_arguments(self) -> list[tuple[str, int | str]]:
        return [
            ("grpc.service_config", json.dumps({"methodConfig": [self._method_config()]})),
            # gRPC retries a request only if it fits this buffer, 256 KiB by default.
            ("grpc.per_rpc_retry_buffer_size", 2 * self.max_message_bytes),
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_receive_message_length", -1),  # the size depends on the number of requested labels
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
        ]

    def _method_config(self) -> dict[str, object]:
        """Let gRPC retry calls to an unavailable server; all methods are idempotent."""
        policy = {
            "maxAttempts": min(self.max_attempts, _GRPC_MAX_ATTEMPTS),
            "initialBackoff": "0.1s",
            "maxBackoff": "2s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        return {"name": [{"service": _SERVICE}]} | ({"retryPolicy": policy} if self.max_attempts > 1 else {})


def _host(target: str) -> str:
    """Return the host of HOST:PORT or [HOST]:PORT."""
    return target.rpartition(":")[0] or target


def _read(option: str, path: _Path) -> bytes | None:
    try:
        return None if path is None else Path(path).read_bytes()
    except OSError as error:
        raise OptionsError(f"cannot read {option} {path}: {error.strerror}") from None


def _system_roots() -> bytes | None:
    """Return the system's root certificates; None, which selects gRPC's own, if there are none."""
    found = ssl.create_default_context().get_ca_certs(binary_form=True)
    return "".join(map(ssl.DER_cert_to_PEM_cert, found)).encode() or None
