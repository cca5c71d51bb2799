"""Evaluation, and the files of a run."""
