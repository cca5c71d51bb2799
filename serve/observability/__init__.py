"""Logs, metrics, traces, request IDs, and notifications to systemd."""
