"""Benchmarks: one command for every figure in the documents."""
