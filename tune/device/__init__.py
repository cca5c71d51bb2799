"""Precision, memory, batches and processes: what depends on the hardware."""
