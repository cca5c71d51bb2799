"""The stages of a tuning run: prepare, choose, train, evaluate."""
