"""Server TLS: its certificate, and optionally the certificate authorities of clients (mutual TLS).

gRPC checks for a new certificate before each handshake, so a renewed certificate is used without a restart and without
closing existing connections.
"""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import grpc

from unfreeze.contract.errors import OptionsError, first_line
from unfreeze.contract.files import fingerprint

_Read = TypeVar("_Read")
_Fingerprint = tuple[tuple[int, int, int] | None, ...]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """Paths of PEM files.

    Args:
        cert: server certificate, followed by intermediate certificates.
        key: private key of the certificate, without a passphrase.
        client_ca: certificate authorities of clients; None if clients need no certificate.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


def tls_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Create server credentials that reload the files when they change.

    Args:
        files: certificate, key and client certificate authorities.

    Raises:
        OptionsError: a file cannot be read or is invalid.
    """
    certificates = _Reloading(files, _read_configuration)
    return grpc.dynamic_ssl_server_credentials(
        certificates.current, certificates.reload_if_changed, require_client_authentication=files.client_ca is not None
    )


def tls_context(files: TlsFiles) -> ssl.SSLContext:
    """Create a server's TLS context that reloads the files when they change.

    Args:
        files: certificate, key and client certificate authorities.

    Raises:
        OptionsError: a file cannot be read or is invalid.
    """
    contexts = _Reloading(files, _read_context)

    def use_current(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        contexts.reload_if_changed()
        connection.context = contexts.current

    context = contexts.current
    context.sni_callback = use_current
    return context


class _Reloading(Generic[_Read]):
    """What is made of some files, and a check whether they have changed.

    Args:
        files: the files.
        read: reads and validates them.

    Attributes:
        current: what was read last.
    """

    def __init__(self, files: TlsFiles, read: Callable[[TlsFiles], _Read]) -> None:
        self._files, self._read = files, read
        self._last_seen = _fingerprint(files)
        self.current = read(files)

    def reload_if_changed(self) -> _Read | None:
        """Read the files again; None if they have not changed or are invalid."""
        seen = _fingerprint(self._files)
        if seen == self._last_seen:
            return None
        self._last_seen = seen  # set before reading, so that a change during the read is found by the next check
        try:
            self.current = self._read(self._files)
        except OptionsError as error:
            _log.error("cannot load the changed TLS certificate, keeping the previous one: %s", error)
            return None
        _log.info("loaded the changed TLS certificate %s", self._files.cert)
        return self.current


def _fingerprint(files: TlsFiles) -> _Fingerprint:
    return tuple(fingerprint(path) for path in (files.cert, files.key, files.client_ca) if path is not None)


def _read_configuration(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """Read and validate the files; with invalid ones, gRPC would start and fail every handshake."""
    cert, key = _read("--tls-cert", files.cert), _read("--tls-key", files.key)
    authorities = None if files.client_ca is None else _read("--tls-client-ca", files.client_ca)
    _read_context(files)
    return grpc.ssl_server_certificate_configuration([(key, cert)], authorities)


def _read_context(files: TlsFiles) -> ssl.SSLContext:
    for option, path in {"--tls-cert": files.cert, "--tls-key": files.key}.items():
        _read(option, path)
    authorities = None if files.client_ca is None else _read("--tls-client-ca", files.client_ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    problem = (
        f"--tls-cert {files.cert} and --tls-key {files.key} must be a certificate and its private key in PEM format, "
        "without a passphrase"
    )
    try:
        context.load_cert_chain(files.cert, files.key, password="")  # without it, OpenSSL would prompt in the terminal
        if authorities is not None:
            problem = f"--tls-client-ca {files.client_ca} must contain certificates in PEM format"
            context.load_verify_locations(cadata=authorities.decode("ascii", "ignore"))
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as error:
        raise OptionsError(f"{problem}: {first_line(error)}") from None
    return context


def _read(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OptionsError(f"cannot read {option} {path}: {error.strerror}") from None
