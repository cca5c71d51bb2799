"""Kinds of addresses: which of them other machines can reach."""

import ipaddress
import socket


def bracketed(host: str) -> str:
    """Return a host as it stands before a port: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def is_loopback(host: str) -> bool:
    """Check whether all addresses of a host are loopback addresses.

    Args:
        host: host name or IP address; an IPv6 address may be in brackets.

    Returns:
        False also if the name cannot be resolved.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):  # UnicodeError: not a valid host name, for example a label of 64 characters
        return False
    return bool(found) and all(ipaddress.ip_address(str(address[0])).is_loopback for *_, address in found)


def is_unix_target(target: str) -> bool:
    """Return whether a gRPC target is a Unix socket: unix:PATH, unix:///PATH or unix-abstract:NAME."""
    return target.startswith(("unix:", "unix-abstract:"))
