"""Scheduling: admission control, queues, dynamic batching and execution plans."""
