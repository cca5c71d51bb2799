"""Processes that accept requests in front of the one that executes the models: `unfreeze serve --frontends N`."""
