"""Tokens, TLS, and the addresses that a server may listen on."""
