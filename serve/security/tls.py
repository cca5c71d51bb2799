"""TLS: the server's certificate, and the authorities whose certificates its clients must present.

gRPC asks before every handshake whether there is another certificate. So a renewed one is taken without a restart, and
connections that are open go on.
"""

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from unfreeze.contract.errors import OptionsError, first_line
from unfreeze.contract.files import fingerprint

_Print = tuple[tuple[int, int, int] | None, ...]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """What TLS needs, in PEM.

    Args:
        cert: the server's certificate, then those between it and its authority.
        key: its key, without a passphrase.
        client_ca: the authorities of clients; None to ask clients for no certificate.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


def tls_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Make what a server listens with; it follows the files as they change.

    Args:
        files: what to read.

    Raises:
        OptionsError: a file cannot be read or is not what it should be.
    """
    certificates = _Certificates(files)
    return grpc.dynamic_ssl_server_credentials(
        certificates.first, certificates.renewed, require_client_authentication=files.client_ca is not None
    )


class _Certificates:
    """The certificate as it was, and whether the files hold another one by now."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen = _fingerprint(files)
        self.first = _read_checked(files)

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Read the files where they have changed; None where they have not, or where they cannot be used."""
        found = _fingerprint(self._files)
        if found == self._seen:
            return None
        self._seen = found  # before reading: what changes meanwhile is seen the next time
        try:
            renewed = _read_checked(self._files)
        except OptionsError as error:
            _log.error("the new certificate cannot be used, and the one before it stays: %s", error)
            return None
        _log.info("a new certificate was read from %s", self._files.cert)
        return renewed


def _fingerprint(files: TlsFiles) -> _Print:
    return tuple(fingerprint(path) for path in (files.cert, files.key, files.client_ca) if path is not None)


def _read_checked(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """Read the files, and see that they fit together: gRPC itself would only fail every handshake."""
    cert, key = _read("--tls-cert", files.cert), _read("--tls-key", files.key)
    authorities = None if files.client_ca is None else _read("--tls-client-ca", files.client_ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    what = f"--tls-cert {files.cert} and --tls-key {files.key} are no certificate and its key, without a passphrase"
    try:
        context.load_cert_chain(files.cert, files.key, password="")  # with none, OpenSSL asks the terminal for one
        if authorities is not None:
            what = f"--tls-client-ca {files.client_ca} holds no certificates"
            context.load_verify_locations(cadata=authorities.decode("ascii", "ignore"))
    except (OSError, ValueError) as error:
        raise OptionsError(f"{what}, in PEM: {first_line(error)}") from None
    return grpc.ssl_server_certificate_configuration([(key, cert)], authorities)


def _read(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OptionsError(f"{option} {path} cannot be read: {error.strerror}") from None
