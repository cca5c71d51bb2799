"""Clients: blocking, asynchronous, and in-process without a server."""
