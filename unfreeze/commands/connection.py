"""How commands connect to a server."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConnectionOptions:
    """Connection to a server.

    Args:
        timeout_s: timeout of each request, in seconds.
        token_file: file whose first line is sent as the bearer token.
        tls: use TLS with the system's root certificates; implied by --tls-ca and --tls-cert.
        tls_ca: PEM file of root certificates to use instead of the system's.
        tls_cert: PEM file of the client certificate, for mutual TLS.
        tls_key: PEM file of the client certificate's private key.
        insecure: allow sending the token to another machine without TLS, for networks that are encrypted otherwise.
    """

    timeout_s: float = 30.0
    token_file: Path | None = None
    tls: Annotated[bool, Parameter(negative="")] = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure: Annotated[bool, Parameter(negative="")] = False

    def client_options(self) -> dict[str, Any]:
        """Return what clients take as keyword arguments; reads the token.

        Raises:
            OptionsError: the token file cannot be used.
        """
        from unfreeze.serve.security.auth import read_tokens

        keywords = {one.name: getattr(self, one.name) for one in dataclasses.fields(ConnectionOptions)}
        token_file = keywords.pop("token_file")
        return keywords | {"token": None if token_file is None else read_tokens(token_file)[0]}
