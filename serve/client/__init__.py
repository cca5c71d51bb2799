"""Clients: blocking, asyncio, and in-process without a server."""
