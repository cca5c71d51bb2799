"""Where a server listens: on this machine alone, or where others can reach it."""

import ipaddress
import socket


def is_this_machine_alone(host: str) -> bool:
    """Tell whether every address that a name stands for is a loopback one; what cannot be resolved is not.

    Args:
        host: a name or an address to listen on; an IPv6 address may stand in brackets.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):  # UnicodeError: no name at all, such as one with a label of 64 characters
        return False
    return bool(found) and all(ipaddress.ip_address(str(address[0])).is_loopback for *_, address in found)
