"""Add the addresses of a server: a TCP port, and a Unix socket."""

import logging

import grpc

from unfreeze.contract.errors import ServingError
from unfreeze.serve.security.binding import bracketed
from unfreeze.serve.security.unix_socket import UnixSocket

_log = logging.getLogger(__name__)


def listen_on_port(server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials | None) -> int:
    """Listen on a TCP port.

    Args:
        server: that has not been started.
        host: address of this machine.
        port: 0 for any free one.
        credentials: of TLS; None without TLS.

    Returns:
        The port.

    Raises:
        ServingError: the address is in use or not available.
    """
    address = f"{bracketed(host)}:{port}"
    try:
        found: int = (
            server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
        )
    except RuntimeError as error:
        raise ServingError(
            f"cannot listen on {address}: the port may be in use (choose another --port, or 0 for any free port) "
            f"or --host is not an address of this machine ({error})"
        ) from None
    _log.info("listening on %s:%d", bracketed(host), found)
    return found


def listen_on_socket(server: grpc.aio.Server, unix_socket: UnixSocket) -> None:
    """Listen on a Unix socket, without TLS: the permissions of its file say who can connect.

    Args:
        server: that has not been started.
        unix_socket: where to listen.

    Raises:
        ServingError: the path is in use or not available.
    """
    with unix_socket.binding() as target:
        try:
            server.add_insecure_port(target)
        except RuntimeError as error:
            raise ServingError(
                f"cannot listen on {unix_socket.path}: its folder may not be writable; choose another --uds ({error})"
            ) from None
    _log.info("listening on %s", target)
