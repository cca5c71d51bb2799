"""Logs, metrics, traces, request ids, and the notifications that systemd expects."""
