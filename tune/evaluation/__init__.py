"""Evaluation of a network, and the metrics derived from it."""
