"""Fuzzing a server: mutated images and messages, and the checks on every answer."""
