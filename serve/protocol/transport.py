"""Channel options of the server: message sizes, flow control and keepalive."""

_NEVER_MS = 2**31 - 1
_LOOKAHEAD_BYTES = 2**18  # about one image


def channel_options(max_message_mib: int, *, shares_ports: bool = False) -> list[tuple[str, int]]:
    """Return the options of `grpc.aio.server`.

    Args:
        max_message_mib: size limit of a message, in MiB.
        shares_ports: other processes of the same server listen on the same port.
    """
    max_bytes = max_message_mib * 2**20
    return [
        # Limits how much of a call is received before the call is rejected; growing windows would admit all of it.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", _LOOKAHEAD_BYTES),
        ("grpc.so_reuseport", int(shares_ports)),  # else two servers on the same port would share its connections
        ("grpc.max_receive_message_length", max_bytes),
        ("grpc.max_send_message_length", max_bytes),
        ("grpc.keepalive_time_ms", 60_000),  # detects vanished clients, and keeps idle connections open in routers
        ("grpc.keepalive_timeout_ms", 20_000),  # a mobile network may be unreachable for seconds
        ("grpc.keepalive_permit_without_calls", 1),  # clients that call rarely keep their connection
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # the default of 5 minutes is too long for devices
        ("grpc.max_connection_idle_ms", _NEVER_MS),  # a TLS handshake is costly for a small device
    ]
